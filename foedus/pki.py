"""Keys and certificates of a federation: one authority, one server certificate, one key for each site.

The coordinator's authority signs nothing but its own server. Sites are known by their public
keys, which the coordinator approves by hand; no certificate of a site exists.
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foedus import files
from foedus.errors import ConfigError

AUTHORITY_DAYS, SERVER_DAYS = 3650, 398
"""Validity; a server certificate is renewed once a year."""
CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.pem"
NODE_KEY, NODE_PUBLIC = "node.key", "node.pub"
SKEW = timedelta(minutes=5)
"""Certificates are valid from a little before they are made: clocks differ."""


def create_authority(folder: Path, *, name: str) -> None:
    """A certificate authority (P-384) for one federation.

    Args:
        folder: Gets ca.key (0600) and ca.crt.
        name: Common name.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )
    _write_key(folder / CA_KEY, key)
    files.write_bytes(folder / CA_CERTIFICATE, certificate.public_bytes(Encoding.PEM))


def create_server_certificate(folder: Path, *, hosts: list[str], days: int | None = None) -> None:
    """A new key and certificate of the server, signed by the authority in `folder`; also renews.

    Args:
        folder: Holds the authority; gets server.key (0600) and server.pem.
        hosts: Names and addresses sites reach it by.
        days: Of validity; a year when not given.
    """
    authority_key = load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    authority = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            str(folder / CA_KEY), ["it is not an elliptic-curve key; make the coordinator anew"]
        )
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    certificate = (
        _builder(_name(hosts[0]), authority.subject, key, days=SERVER_DAYS if days is None else days)
        .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    _write_key(folder / SERVER_KEY, key)
    files.write_bytes(folder / SERVER_CERTIFICATE, certificate.public_bytes(Encoding.PEM))


def create_node_key(folder: Path) -> str:
    """A site's key (P-384) for signing in at the server; an existing one is kept.

    Args:
        folder: Gets node.key (0600) and node.pub, in OpenSSH's format.

    Returns:
        The public key, one line.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / NODE_KEY).exists():
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        files.write_bytes(folder / NODE_KEY, private, mode=0o600)
    loaded = load_ssh_private_key((folder / NODE_KEY).read_bytes(), None)
    public = loaded.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    files.write_bytes(folder / NODE_PUBLIC, public)
    return public.decode()


def days_left(certificate: Path) -> int:
    """Days until a certificate expires; negative once it has."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return (found.not_valid_after_utc - datetime.now(UTC)).days


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write_bytes(path, content, mode=0o600)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
