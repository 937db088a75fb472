"""What a stranger, a site or a coordinator tries against a real federation on loopback, and what it is told."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata
from flwr.proto.node_pb2 import Node

from clients.membership import AUTHORITY, FOLDER, LOCAL, Membership
from clients.node import NODE_ID, fleet_client, sign_out
from foedus import __version__, pki
from foedus.demos.loopback import COORDINATOR, Loopback
from foedus.runs import RunFolder
from server.control import Control
from server.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SITES = ("east", "north", "south")


@pytest.fixture(scope="module")
def federation(deployed_toy: Path) -> Iterator[Loopback]:
    sites = {name: deployed_toy / "sites" / name for name in SITES}
    with Loopback(deployed_toy / COORDINATOR, sites) as found:
        yield found


@pytest.fixture
def copy(federation: Loopback, tmp_path: Path) -> Membership:
    """East's whole folder, as somebody may have copied it."""
    folder = tmp_path / "east"
    shutil.copytree(federation.sites["east"], folder)
    return Membership(folder)


def test_a_stranger_with_a_stolen_kit_is_not_let_in(copy: Membership) -> None:
    (copy.node / pki.NODE_KEY).unlink()
    pki.create_node_key(copy.node)
    assert "its key is not approved yet, or was revoked" in (sign_out(copy) or "let in")


def test_a_server_of_another_authority_is_not_trusted(copy: Membership, tmp_path: Path) -> None:
    pki.create_authority(tmp_path / "pki", name="another")
    shutil.copy(tmp_path / "pki" / pki.CA_CERTIFICATE, copy.node / AUTHORITY)
    assert "certificate" in (sign_out(copy) or "let in")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_stranger_is_answered_before_what_it_sends_is_read(
    federation: Loopback, newest: ssl.TLSVersion
) -> None:
    """A terabyte is announced; it is not waited for. An older TLS is not even spoken."""
    home = Home.open(federation.home)
    context = ssl.create_default_context(cafile=str(home.pki / pki.CA_CERTIFICATE))
    context.maximum_version = newest
    call = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n"
    host, _, port = home.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        if newest is ssl.TLSVersion.TLSv1_2:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_hostname=host)
            return
        with context.wrap_socket(plain, server_hostname=host) as secure:
            secure.sendall(call)
            assert secure.recv(100).startswith(b"HTTP/1.1 401")


def test_a_site_is_not_heard_in_anothers_name(federation: Loopback) -> None:
    """East signs in as itself and pushes an answer that names another node."""
    site = Membership(federation.sites["east"])
    key = load_ssh_private_key((site.node / pki.NODE_KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own = int((site.node / NODE_ID).read_text())
    posing = ProtoMessage(metadata=Metadata(src_node_id=own + 1, run_id=1, reply_to_message_id="x"))
    with fleet_client(site, key) as client, pytest.raises(httpx.HTTPStatusError) as refused:
        client.PushMessages(PushMessagesRequest(node=Node(node_id=own), messages_list=[posing]))
    assert refused.value.response.status_code == 403
    assert "in the name of another site" in (federation.home / "audit.jsonl").read_text()


def test_sites_that_refuse_a_study_or_pose_as_others_are_named_by_the_key_they_signed_in_with(
    federation: Loopback, deployed_toy: Path, tmp_path: Path
) -> None:
    """East's own policy forbids the study; south calls itself north."""
    east, south = (federation.sites[name] / "site.toml" for name in ("east", "south"))
    as_they_were = {path: path.read_text() for path in (east, south)}
    text = (deployed_toy / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(text.replace('mode = "secure-only"', 'mode = "open"'))
    shutil.copy(deployed_toy / "policy.toml", tmp_path)
    try:
        east.write_text(as_they_were[east].replace("[policy]\n", '[policy]\nstudies = ["others"]\n'))
        south.write_text(as_they_were[south].replace('name = "south"', 'name = "west"'))
        said = federation.foedus("run", tmp_path / "study.toml", "--home", federation.home, code=1)
    finally:
        for path, before in as_they_were.items():
            path.write_text(before)
    problem = str(RunFolder.open(federation.run_folders()[-1]).state()["problem"])
    assert "1 sites can take part, federation.min_sites is 2" in problem
    assert "east: the site's policy does not list the study 'toy'" in problem
    assert "south: it answers as 'west' and was approved as 'south'" in problem
    assert "Traceback" not in said.out


@pytest.mark.parametrize(("version", "elsewhere"), [("9.9.9", False), (__version__, True)])
def test_a_run_of_another_version_or_in_another_folder_is_not_conducted(
    federation: Loopback, deployed_toy: Path, tmp_path: Path, version: str, elsewhere: bool
) -> None:
    home = Home.open(federation.home)
    folder = tmp_path if elsewhere else home.runs
    run = RunFolder.create(
        folder.resolve(), deployed_toy / "study.toml", policy=None, engine="superlink", sites=""
    )
    control = Control(home)
    number = control.start(run.path, version=version)
    _until(lambda: control.runs()[number][0].startswith("finished"))
    assert control.runs()[number][0] == "finished:failed"
    assert not run.rounds()
    assert run.latest() is None


def test_what_a_site_keeps_of_its_node_is_its_owners_alone(federation: Loopback) -> None:
    for site in federation.sites.values():
        node = site / FOLDER
        assert node.stat().st_mode & 0o077 == 0
        assert not [path for path in node.rglob("*.key") if path.stat().st_mode & 0o077]
        assert (node / LOCAL / pki.SERVER_KEY).exists()
        assert not (node / LOCAL / pki.CA_KEY).exists()


def test_a_sites_processes_speak_tls_among_each_other(federation: Loopback) -> None:
    """Whoever takes the node's port while it is started again has no key the executor trusts."""
    line = Path(f"/proc/{federation.pid('east', 'node')}/cmdline").read_text().split("\0")
    port = int(line[line.index("--port") + 1])
    local = federation.sites["east"] / FOLDER / LOCAL
    trusting = ssl.create_default_context(cafile=str(local / pki.CA_CERTIFICATE))
    assert httpx.get(f"https://127.0.0.1:{port}/health", verify=trusting).is_success
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    executor = Path(f"/proc/{federation.pid('east', 'executor')}/cmdline").read_text()
    assert str(local.resolve() / pki.CA_CERTIFICATE) in executor


def _until(true: Callable[[], bool], *, within_s: float = 120.0) -> None:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + within_s
        time.sleep(0.3)
