"""Joining a federation: every document that was altered, mixed up or taken from another is refused."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clients.membership import Membership
from clients.service import free_port
from foedus import pki
from foedus.door import KEYS_FOLDER
from foedus.enrolment import Kit, Request
from foedus.errors import ConfigError, DoorError, RunError, SecureSumError
from foedus.secure.keystore import Keystore
from server.home import Home
from server.roles import MAY, holder, may
from server.service import require_port, service

SITE = '[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "y"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="care", host="localhost", port=9443, control_port=9444)


def site(folder: Path, name: str) -> Membership:
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "site.toml").write_text(SITE.format(name=name))
    return Membership(path)


def test_a_site_joins_with_the_kit_that_answers_its_request(home: Home, tmp_path: Path) -> None:
    sites = [site(tmp_path, name) for name in ("a", "b", "c")]
    for one in sites:
        home.approve(Request.decode(one.request().encode()))
    kits = [Kit.decode(home.kit_file(name).read_text()) for name in ("a", "b", "c")]
    assert len({kit.fingerprint() for kit in kits}) == 1
    for one, kit in zip(sites, kits, strict=True):
        one.join(kit, fingerprint=kit.fingerprint().upper().replace("-", " "))
    assert sites[0].kit().roster is not None
    for private in (sites[0].node.parent, sites[0].node / pki.NODE_KEY):
        assert private.stat().st_mode & 0o077 == 0


def test_a_kit_of_another_site_a_wrong_fingerprint_or_an_altered_kit_is_refused(
    home: Home, tmp_path: Path
) -> None:
    a, b = site(tmp_path, "a"), site(tmp_path, "b")
    home.approve(a.request())
    home.approve(b.request())
    kit = home.kit("a")
    with pytest.raises(DoorError, match="answers another request"):
        b.join(kit, fingerprint=kit.fingerprint())
    with pytest.raises(DoorError, match="not the one the coordinator read out"):
        a.join(kit, fingerprint="0000-0000")
    moved = kit.model_copy(update={"address": "elsewhere:1"})
    with pytest.raises(SecureSumError, match="it was altered"):
        a.join(moved, fingerprint=moved.fingerprint())
    with pytest.raises(ConfigError, match="has not joined"):
        a.kit()


def test_a_request_without_its_key_or_under_anothers_name_is_refused(home: Home, tmp_path: Path) -> None:
    a, b = site(tmp_path, "a"), site(tmp_path, "b")
    request = a.request()
    with pytest.raises(SecureSumError, match="not that of site 'a'"):
        home.approve(request.model_copy(update={"identity": b.request().identity}))
    home.approve(request)
    imposter = site(tmp_path / "elsewhere", "a").request()
    with pytest.raises(DoorError, match=r"another site 'a' is approved .* --replace"):
        home.approve(imposter)
    home.approve(imposter, replace=True)
    assert home.approved()["a"].fingerprint() == imposter.fingerprint()
    copied = b.request().model_copy(update={"identity": imposter.identity})
    with pytest.raises(SecureSumError):
        home.approve(copied)
    (b.node / pki.NODE_KEY).write_bytes((site(tmp_path / "elsewhere", "a").node / pki.NODE_KEY).read_bytes())
    with pytest.raises(DoorError, match="site 'a' has the same key"):
        home.approve(b.request())


def test_a_revoked_site_leaves_the_roster_and_loses_its_kit(home: Home, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        home.approve(site(tmp_path, name).request())
    roster = home.roster()
    assert roster is not None
    assert set(roster.sites) == {"a", "b", "c", "d"}
    home.revoke("d")
    roster = home.roster()
    assert roster is not None
    assert set(roster.sites) == {"a", "b", "c"}
    assert not home.kit_file("d").exists()
    with pytest.raises(ConfigError, match="site 'd' is not approved; approved: a, b, c"):
        home.revoke("d")


def test_a_coordinator_is_made_once_and_its_secrets_are_its_own(home: Home) -> None:
    with pytest.raises(RunError, match="is a coordinator already"):
        Home.create(home.folder, name="x", host="h", port=1, control_port=2)
    secrets = [home.pki / pki.CA_KEY, home.pki / pki.SERVER_KEY, home.folder / "identity.key"]
    secrets += list((home.folder / "tokens").iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
    assert pki.days_left(home.pki / pki.SERVER_CERTIFICATE) > 390
    with pytest.raises(ConfigError, match="is no coordinator's folder"):
        Home.open(home.folder / "pki")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "my fed/x"}, "--name 'my fed/x' is not a name"),
        ({"host": "https://x.org"}, "--host 'https://x.org' is not a host"),
        ({"host": "x.org:9443"}, "give a name or address alone"),
        ({"control_port": 9443}, "are both 9443; choose two"),
    ],
)
def test_a_coordinator_that_no_site_could_join_is_not_made(
    tmp_path: Path, given: dict[str, Any], problem: str
) -> None:
    wanted: dict[str, Any] = {"name": "n" * 64, "host": "h" * 70 + ".org", "port": 9443, "control_port": 9444}
    with pytest.raises(ConfigError, match=re.escape(problem)):
        Home.create(tmp_path / "home", **{**wanted, **given})
    assert not (tmp_path / "home").exists()
    assert Home.create(tmp_path / "home", **wanted).address.endswith(".org:9443")


def test_a_coordinator_runs_once_and_on_ports_that_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.service.PORT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home = Home.create(
            tmp_path / "home", name="care", host="localhost", port=free_port(), control_port=port
        )
        with (
            pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on"),
            service(home, listen="127.0.0.1", say=print),
        ):
            pass
    with (
        service(home, listen="127.0.0.1", say=print),
        pytest.raises(RunError, match="runs already; stop the other foedus coordinator up"),
        service(home, listen="127.0.0.1", say=print),
    ):
        pass
    with pytest.raises(ConfigError, match=r"nowhere\.invalid:\d+ cannot be listened on"):
        require_port("nowhere.invalid", 1)


def test_roles_may_do_more_from_one_to_the_next_and_tokens_are_told_apart(home: Home) -> None:
    assert MAY["auditor"] < MAY["coordinator"] < MAY["admin"]
    assert may("admin", "register-node")
    assert not may("coordinator", "register-node")
    assert not may("auditor", "start-run")
    assert not may("nobody", "list-runs")
    from server.home import TOKENS, read_tokens

    tokens = read_tokens(home.folder / TOKENS)
    assert holder(tokens, f"Bearer {home.token('auditor')}") == {"name": "auditor", "role": "auditor"}
    assert holder(tokens, "Bearer guessed") is None
    assert home.token("admin") not in (home.folder / TOKENS).read_text()


def test_a_site_cannot_ask_with_the_key_another_signs_in_with(home: Home, tmp_path: Path) -> None:
    """Its name would then stand for the other's node, whose answers would no longer count."""
    a, b = site(tmp_path, "a"), site(tmp_path, "b")
    home.approve(a.request())
    draft = b.request().model_copy(update={"node": a.request().node})
    stolen = Keystore(b.folder / KEYS_FOLDER).sign(draft)
    with pytest.raises(DoorError, match="site 'a' has the same key"):
        home.approve(stolen)
    assert list(home.approved()) == ["a"]


def ssh(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"node": ssh(Ed25519PrivateKey.generate())}, "not a P-384 key"),
        ({"node": ssh(ec.generate_private_key(ec.SECP256R1()))}, "not a P-384 key"),
        ({"node": ssh(ec.generate_private_key(ec.SECP384R1())) + " a\x1b[2J"}, "something beside it"),
        ({"node": "ssh-rsa AAAA"}, "not a public key"),
        ({"foedus": "1.0\x1b[2J"}, "'foedus'"),
        ({"flwr": "[/red]"}, "'flwr'"),
        ({"foedus": "1" * 41}, "'foedus'"),
        ({"site": "../a"}, "'site'"),
        ({"site": "a\n"}, "'site'"),
    ],
)
def test_a_request_that_would_stop_the_server_or_write_to_a_terminal_is_malformed(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    draft = site(tmp_path, "a").request().model_copy(update=change)
    with pytest.raises(SecureSumError, match=reason):
        Request.decode(Keystore(tmp_path / "a" / KEYS_FOLDER).sign(draft).encode())


def test_a_folder_that_was_open_to_all_is_the_coordinators_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    made = Home.create(tmp_path / "home", name="care", host="localhost", port=9443, control_port=9444)
    assert made.folder.stat().st_mode & 0o077 == 0
