"""What `foedus site check` says about the way to the coordinator: a real TLS server, in every wrong state."""

import http.server
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import reach
from clients.membership import AUTHORITY, Membership
from clients.node import sign_out
from clients.reach import backbone_row, clock_skew, connection_rows, differing, machine_rows
from clients.service import free_port
from foedus import __version__, pki
from foedus.data import CheckRow
from foedus.study import load_study
from server.home import Home

SITE = '[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "y"\n'
NOW = {"foedus": __version__, "flwr": "1.41.0"}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Membership]:
    folder = tmp_path_factory.mktemp("reach")
    home = Home.create(
        folder / "home", name="care", host="127.0.0.1", port=free_port(), control_port=free_port()
    )
    (folder / "a").mkdir()
    (folder / "a/site.toml").write_text(SITE.format(name="a"))
    site = Membership(folder / "a")
    home.approve(site.request())
    site.join(home.kit("a"), fingerprint=home.kit("a").fingerprint())
    return home, site


@contextmanager
def coordinator(home: Home, *, skew_s: float = 0.0, versions: dict[str, str] = NOW) -> Iterator[None]:
    """A server with the home's certificate that says its time and versions, as the gate does."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(versions).encode()
            self.send_response_only(200)
            date = datetime.now(UTC) - timedelta(seconds=skew_s)
            self.send_header("Date", format_datetime(date, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    host, _, port = home.address.partition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.pki / pki.SERVER_CERTIFICATE, home.pki / pki.SERVER_KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows(site: Membership) -> dict[str, CheckRow]:
    return {row.check: row for row in connection_rows(site)}


def test_a_coordinator_that_is_right(joined: tuple[Home, Membership]) -> None:
    home, site = joined
    with coordinator(home):
        found = rows(site)
    assert list(found) == ["coordinator", "clock", "foedus", "flwr"]
    assert {row.status for row in found.values()} == {"ok"}


def test_nobody_there(joined: tuple[Home, Membership]) -> None:
    found = rows(joined[1])["coordinator"]
    assert (found.status, "does not answer" in found.how_to_fix) == ("fail", True)


@pytest.mark.parametrize(("skew", "said"), [(60.0, "ahead of"), (-1000.0, "behind")])
def test_a_clock_that_is_off_is_explained(joined: tuple[Home, Membership], skew: float, said: str) -> None:
    home, site = joined
    with coordinator(home, skew_s=skew):
        found = rows(site)["clock"]
    assert found.status == "fail"
    assert said in found.how_to_fix
    assert "NTP" in found.how_to_fix


def test_another_version_is_named_before_it_hurts(joined: tuple[Home, Membership]) -> None:
    home, site = joined
    with coordinator(home, versions={"foedus": "9.9.9", "flwr": "1.42.0"}):
        found = rows(site)
    assert "install foedus 9.9.9 here" in found["foedus"].how_to_fix
    assert found["flwr"].status == "fail"
    with coordinator(home, versions={"foedus": __version__, "flwr": "1.41.7"}):
        assert rows(site)["flwr"].status == "ok"


def test_what_a_node_is_told_of_versions_before_it_signs_in(joined: tuple[Home, Membership]) -> None:
    home, site = joined
    assert differing(site) == {}
    with coordinator(home):
        assert differing(site) == {}
    with coordinator(home, versions={"foedus": __version__, "flwr": "1.42.0"}):
        [said] = differing(site).values()
    assert said == (
        "flwr is 1.41.0 here, 1.42.0 at the coordinator; install flwr 1.42.0 here, or ask all sites and the "
        "coordinator to change together"
    )


def test_an_expired_certificate_is_explained(
    joined: tuple[Home, Membership], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, site = joined
    monkeypatch.setattr(pki, "SERVER_DAYS", -1)
    monkeypatch.setattr(pki, "SKEW", timedelta(days=2))
    pki.create_server_certificate(home.pki, hosts=["127.0.0.1"])
    monkeypatch.undo()
    with coordinator(home):
        expired = rows(site)["coordinator"]
    pki.create_server_certificate(home.pki, hosts=["127.0.0.1"])
    assert expired.status == "fail"
    assert "has expired; ask the coordinator to run foedus coordinator renew" in expired.how_to_fix


def test_another_authority_is_refused(joined: tuple[Home, Membership], tmp_path: Path) -> None:
    home, site = joined
    pki.create_authority(tmp_path, name="other")
    before = (site.node / AUTHORITY).read_bytes()
    (site.node / AUTHORITY).write_bytes((tmp_path / pki.CA_CERTIFICATE).read_bytes())
    try:
        with coordinator(home):
            found = rows(site)["coordinator"]
    finally:
        (site.node / AUTHORITY).write_bytes(before)
    assert found.status == "fail"
    assert "another authority than the kit's" in found.how_to_fix


def test_a_site_that_has_not_joined_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.toml").write_text('device = "cuda:1"\n' + SITE.format(name="a"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert list(connection_rows(Membership(tmp_path))) == []
    found = {row.check: row for row in machine_rows(tmp_path)}
    assert found["disk"].found.endswith("GB free")
    assert found["packages"].status == "ok"
    assert (found["device"].status, found["device"].found) == ("fail", "cuda:1, but torch sees 1 GPU")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("numpy<1", r"numpy \d.* is not <1"),
        ("no-such-package", "no-such-package is missing"),
        ('x; extra == "y"', None),
    ],
)
def test_packages_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, problem: str | None
) -> None:
    monkeypatch.setattr(reach, "requires", lambda name: [line, "numpy"])
    row = next(row for row in machine_rows(tmp_path) if row.check == "packages")
    assert (row.status == "ok") is (problem is None)
    assert problem is None or re.fullmatch(problem, row.found)


def test_a_backbone_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "x"\nclasses = ["a", "b"]\n[backbone]\nsource = "bundled:nowhere"\n'
    )
    row = backbone_row(load_study(tmp_path / "study.toml"))
    assert (row.status, "is not bundled" in row.found) == ("fail", True)


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 32 Jan 9999 99:99:99 GMT", "Mon, 01 Jan 99999 00:00:00 GMT"]
)
def test_a_server_that_does_not_say_its_time_in_words_has_none(date: str) -> None:
    assert clock_skew(httpx.Response(200, headers={"date": date})) is None


def test_a_time_without_a_zone_is_read_as_utc() -> None:
    skew = clock_skew(httpx.Response(200, headers={"date": "Thu, 01 Jan 1970 00:00:00 -0000"}))
    assert skew == pytest.approx(datetime.now(UTC).timestamp(), abs=60)


def test_a_version_writes_nothing_to_a_terminal(joined: tuple[Home, Membership]) -> None:
    home, site = joined
    with coordinator(home, versions={"foedus": "\x1b[2J" * 100, "flwr": "1.41.0"}):
        row = rows(site)["foedus"]
    assert row.status == "fail"
    assert (row.found + row.how_to_fix).isprintable()
    assert len(row.how_to_fix) < 200


def test_a_certificate_for_another_host_is_not_trusted_on_any_way(joined: tuple[Home, Membership]) -> None:
    """Of the same authority: of another server of its, or of an earlier address."""
    home, site = joined
    pki.create_server_certificate(home.pki, hosts=["elsewhere.example"])
    try:
        with coordinator(home):
            checked, signed_in = rows(site)["coordinator"], sign_out(site)
    finally:
        pki.create_server_certificate(home.pki, hosts=["127.0.0.1"])
    assert checked.status == "fail"
    for said in (checked.how_to_fix, signed_in):
        assert "the certificate of 127.0.0.1" in (said or "")
