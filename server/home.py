"""The coordinator's folder: its authority, its tokens, the sites it approved, its state and its runs."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus import files, pki
from foedus.enrolment import Kit, Request
from foedus.errors import ConfigError, DoorError, RunError
from foedus.secure.roster import MIN_SITES, Roster
from foedus.study import NAME
from server.roles import Role

SETTINGS, IDENTITY, TOKENS, SECRET = "coordinator.json", "identity.key", "tokens.json", "executor.secret"
NODES = "nodes.json"
RUNS_VARIABLE = "FOEDUS_RUNS"
"""Environment: the folder below which runs are conducted."""
HOST = r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
"""A host's name or IPv4 address, with no scheme and no port."""


@dataclass(frozen=True)
class Home:
    """A coordinator's folder.

    Attributes:
        folder: Where everything is; private keys and tokens in it have mode 0600.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path, *, name: str, host: str, port: int, control_port: int) -> "Home":
        """A new coordinator: authority, server certificate, identity, one token a role.

        Args:
            folder: New or empty.
            name: Shown to sites.
            host: Name or address sites reach it by.
            port: Of the server that sites connect to.
            control_port: Of its private side, on this machine only.

        Raises:
            ConfigError: If a name, the host or the ports cannot be.
            RunError: If there is a coordinator already, or the folder cannot be written.
        """
        home = cls(folder)
        if (folder / SETTINGS).exists():
            raise RunError(f"{folder} is a coordinator already; choose another folder, or go on with it.")
        if problems := list(_impossible(name=name, host=host, port=port, control_port=control_port)):
            raise ConfigError("coordinator init", problems)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be made ({error.strerror}); choose another with --home."
            ) from None
        with suppress(PermissionError):  # a volume of somebody else's: its owner decides
            folder.chmod(0o700)  # it may have been there, open to all
        pki.create_authority(home.pki, name=f"{name} federation")
        pki.create_server_certificate(home.pki, hosts=[host, "localhost", "127.0.0.1", "::1"])
        identity = Ed25519PrivateKey.generate().private_bytes_raw()
        files.write_bytes(folder / IDENTITY, identity, mode=0o600)
        files.write_bytes(folder / SECRET, secrets.token_bytes(48), mode=0o600)
        known = {}
        for role in get_args(Role):
            token = secrets.token_urlsafe(32)
            files.write_bytes(folder / "tokens" / role, token.encode(), mode=0o600)
            known[hashlib.sha256(token.encode()).hexdigest()] = {"name": role, "role": role}
        files.write_bytes(folder / TOKENS, files.canonical_json(known).encode(), mode=0o600)
        settings = {"name": name, "host": host, "port": port, "control_port": control_port}
        files.write_json(folder / SETTINGS, settings)
        return home

    @classmethod
    def open(cls, folder: Path) -> "Home":
        """An existing coordinator.

        Raises:
            ConfigError: If `folder` is none.
        """
        if not (folder / SETTINGS).is_file():
            raise ConfigError(
                str(folder), ["it is no coordinator's folder; make one with foedus coordinator init"]
            )
        return cls(folder)

    @property
    def pki(self) -> Path:
        """Authority and server certificate."""
        return self.folder / "pki"

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.folder / "runs"

    @property
    def database(self) -> Path:
        """The server's state."""
        return self.folder / "state" / "superlink.db"

    @property
    def settings(self) -> dict[str, Any]:
        """name, host, port and control_port."""
        return dict(files.read_json(self.folder / SETTINGS))

    @property
    def address(self) -> str:
        """host:port that sites connect to."""
        return f"{self.settings['host']}:{self.settings['port']}"

    @property
    def control_address(self) -> str:
        """host:port of the private side."""
        return f"127.0.0.1:{self.settings['control_port']}"

    def token(self, role: Role) -> str:
        """The token of a role, for who can read the file.

        Raises:
            RunError: If it cannot be read.
        """
        try:
            return (self.folder / "tokens" / role).read_text()
        except OSError as error:
            raise RunError(
                f"the {role} token cannot be read ({error.strerror}); ask the administrator."
            ) from None

    def approve(self, request: Request, *, replace: bool = False) -> None:
        """Let a site join. Kits are made anew for every approved site, since all see the same roster.

        Raises:
            SecureSumError: If the request was altered.
            DoorError: If another site has that name or that key.
        """
        request.check()
        for name, known in self.approved().items():
            if name != request.site and (request.identity == known.identity or request.node == known.node):
                raise DoorError(
                    f"site '{name}' has the same key; each site makes its own with foedus site init"
                )
        before = self.approved().get(request.site)
        if before is not None and before.fingerprint() != request.fingerprint() and not replace:
            raise DoorError(
                f"another site '{request.site}' is approved ({before.fingerprint()}); if it made new keys, "
                "compare fingerprints and approve it with --replace"
            )
        files.write_bytes(self._request(request.site), request.encode().encode())
        self._write_kits()

    def revoke(self, site: str) -> None:
        """Shut a site out: its request is removed, its kit too, and the others get a new roster.

        Raises:
            ConfigError: If it is not approved.
        """
        if site not in self.approved():
            raise ConfigError(
                "revoke", [f"site '{site}' is not approved; approved: {', '.join(self.approved()) or 'none'}"]
            )
        self._request(site).unlink()
        self.kit_file(site).unlink(missing_ok=True)
        self._write_kits()

    def approved(self) -> dict[str, Request]:
        """Name to request of every approved site, sorted."""
        paths = sorted((self.folder / "sites").glob("*.request.json"))
        requests = [Request.decode(path.read_text()) for path in paths]
        return {request.site: request for request in requests}

    def roster(self) -> Roster | None:
        """Every approved site; None while there are fewer than three."""
        approved = self.approved()
        if len(approved) < MIN_SITES:
            return None
        return Roster.build(sites={name: request.identity for name, request in approved.items()})

    def note_nodes(self, names: Mapping[int, str]) -> None:
        """Keep which of Flower's nodes is which approved site, for the runs."""
        if names != read_nodes(self.folder / NODES):
            files.write_json(self.folder / NODES, {str(node): name for node, name in names.items()})

    def kit(self, site: str) -> Kit:
        """What an approved site needs to join."""
        key = Ed25519PrivateKey.from_private_bytes((self.folder / IDENTITY).read_bytes())
        draft = Kit.build(
            coordinator=self.settings["name"],
            address=self.address,
            certificate=(self.pki / pki.CA_CERTIFICATE).read_text(),
            identity=key.public_key().public_bytes_raw(),
            site=site,
            request=self.approved()[site].fingerprint(),
            roster=self.roster(),
            signature=bytes(64),
        )
        return draft.model_copy(update={"signature": key.sign(draft.signed_bytes())})

    def kit_file(self, site: str) -> Path:
        """Where a site's kit lies."""
        return self.folder / "kits" / f"{site}.kit.json"

    def _request(self, site: str) -> Path:
        return self.folder / "sites" / f"{site}.request.json"

    def _write_kits(self) -> None:
        for site in self.approved():
            files.write_bytes(self.kit_file(site), self.kit(site).encode().encode())


def _impossible(*, name: str, host: str, port: int, control_port: int) -> Iterator[str]:
    """What of a new coordinator could not be in its kits or its certificate."""
    if re.fullmatch(NAME, name) is None:
        yield f"--name '{name}' is not a name; up to 64 letters, digits, dots, hyphens and underscores"
    if re.fullmatch(HOST, host) is None:
        yield f"--host '{host}' is not a host; give a name or address alone, as federation.example.org"
    if port == control_port:
        yield f"--port and --control-port are both {port}; choose two"


def read_nodes(path: Path) -> dict[int, str]:
    """Node id to site name, as `Home.note_nodes` kept them; none where there is no such file."""
    return {int(node): name for node, name in files.read_json(path).items()} if path.is_file() else {}


def read_tokens(path: Path) -> dict[str, dict[str, str]]:
    """sha256 (hex) of a token to the name and role of who holds it."""
    return dict(json.loads(path.read_text()))
