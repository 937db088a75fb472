"""Keys and signatures: who signed what, for what, and that nothing else passes for it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness.signing import (
    PublicKey,
    Signature,
    Signer,
    create_key,
    file_signature,
    load_public,
    load_signer,
    sign_file,
    signature_file,
    verify,
)
from foedus.errors import ApprovalError

DIGEST = "ab" * 32


def no_passphrase() -> str:
    raise AssertionError("nobody should be asked")


def signer(folder: Path, name: str = "jane", role: str = "auditor") -> Signer:
    create_key(folder, name=name, role=role, passphrase=None)
    return load_signer(folder / f"{name}.key", passphrase=no_passphrase)


def test_a_key_pair_is_private_and_shows_a_fingerprint(tmp_path: Path) -> None:
    public = create_key(tmp_path, name="jane", role="auditor", passphrase=None)
    assert (tmp_path / "jane.key").stat().st_mode & 0o777 == 0o600
    assert load_public(tmp_path / "jane.pub") == public
    assert len(public.fingerprint.split("-")) == 10
    assert load_signer(tmp_path / "jane.key", passphrase=no_passphrase).public == public


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    signer(tmp_path)
    before = (tmp_path / "jane.key").read_bytes()
    with pytest.raises(ApprovalError, match="exists; a key is never replaced"):
        create_key(tmp_path, name="jane", role="auditor", passphrase=None)
    assert (tmp_path / "jane.key").read_bytes() == before


@pytest.mark.parametrize(("name", "role"), [("../jane", "auditor"), ("", "auditor"), ("jane", "The Boss")])
def test_a_name_or_role_that_is_not_plain_is_refused(tmp_path: Path, name: str, role: str) -> None:
    with pytest.raises(ApprovalError, match="cannot be a signer"):
        create_key(tmp_path, name=name, role=role, passphrase=None)
    assert not list(tmp_path.iterdir())


def test_an_encrypted_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    create_key(tmp_path, name="jane", role="auditor", passphrase="open sesame")
    assert b"ENCRYPTED" in (tmp_path / "jane.key").read_bytes()
    load_signer(tmp_path / "jane.key", passphrase=lambda: "open sesame")
    with pytest.raises(ApprovalError, match="the passphrase is wrong"):
        load_signer(tmp_path / "jane.key", passphrase=lambda: "sesame")


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    signer(tmp_path)
    (tmp_path / "jane.key").chmod(0o644)
    with pytest.raises(ApprovalError, match="run chmod 600 on it"):
        load_signer(tmp_path / "jane.key", passphrase=no_passphrase)


def test_a_private_key_beside_another_public_key_is_refused(tmp_path: Path) -> None:
    signer(tmp_path)
    signer(tmp_path, "john")
    (tmp_path / "jane.key").write_bytes((tmp_path / "john.key").read_bytes())
    with pytest.raises(ApprovalError, match="does not belong to the"):
        load_signer(tmp_path / "jane.key", passphrase=no_passphrase)


def test_a_signature_is_for_one_digest_one_purpose_and_one_key(tmp_path: Path) -> None:
    jane, john = signer(tmp_path), signer(tmp_path, "john")
    signature = jane.sign(DIGEST, purpose="foedus policy v1")
    verify(signature, digest=DIGEST, purpose="foedus policy v1")
    verify(signature, digest=DIGEST, purpose="foedus policy v1", key=jane.public)
    with pytest.raises(ApprovalError, match='for "foedus policy v1", not for "foedus approval v1"'):
        verify(signature, digest=DIGEST, purpose="foedus approval v1")
    with pytest.raises(ApprovalError, match="is over something else"):
        verify(signature, digest="cd" * 32, purpose="foedus policy v1")
    with pytest.raises(ApprovalError, match="is not by john"):
        verify(signature, digest=DIGEST, purpose="foedus policy v1", key=john.public)


def test_a_signature_for_one_purpose_cannot_be_relabelled(tmp_path: Path) -> None:
    signature = signer(tmp_path).sign(DIGEST, purpose="foedus policy v1")
    relabelled = signature.model_copy(update={"purpose": "foedus approval v1"})
    with pytest.raises(ApprovalError, match="is not valid"):
        verify(relabelled, digest=DIGEST, purpose="foedus approval v1")


@pytest.mark.parametrize("field", ["signer", "role", "time", "public_key", "signature"])
def test_every_field_is_signed(tmp_path: Path, field: str) -> None:
    signature = signer(tmp_path).sign(DIGEST, purpose="foedus policy v1")
    other = {"public_key": signer(tmp_path, "john").public.public_key, "signature": "0" * 128}
    with pytest.raises(ApprovalError, match="is not valid"):
        verify(
            signature.model_copy(update={field: other.get(field, "someone")}),
            digest=DIGEST,
            purpose="foedus policy v1",
        )


def test_a_role_claimed_by_another_key_is_not_the_pinned_one(tmp_path: Path) -> None:
    jane = signer(tmp_path)
    pinned = PublicKey(name="jane", role="site_lead", public_key=jane.public.public_key)
    with pytest.raises(ApprovalError, match="is not by jane"):
        verify(
            jane.sign(DIGEST, purpose="foedus policy v1"),
            digest=DIGEST,
            purpose="foedus policy v1",
            key=pinned,
        )


def test_no_byte_of_a_signed_file_or_its_signature_can_change(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[policy]\nname = "x"\n')
    signature = sign_file(policy, signer(tmp_path), purpose="foedus policy v1")
    assert file_signature(policy, purpose="foedus policy v1") == signature
    assert Signature(**json.loads(signature_file(policy).read_text())) == signature
    whole = {path: path.read_bytes() for path in (policy, signature_file(policy))}

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(sorted(whole)), st.integers(0), st.integers(1, 255))
    def flip(path: Path, place: int, mask: int) -> None:
        content = bytearray(whole[path])
        content[place % len(content)] ^= mask
        path.write_bytes(content)
        try:
            with pytest.raises(ApprovalError):
                file_signature(policy, purpose="foedus policy v1")
        finally:
            path.write_bytes(whole[path])

    flip()


def test_a_file_without_a_signature_is_unsigned(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("x")
    assert file_signature(tmp_path / "policy.toml", purpose="foedus policy v1") is None
