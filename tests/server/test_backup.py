"""A coordinator's folder, backed up and restored."""

import io
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy
from flwr.supercore.state.schema.corestate_models import Task

from clients.membership import Membership
from foedus import files, pki, simulation
from foedus.errors import ConfigError, FoedusError, RunError
from foedus.runs import HEAD_FILE, RunFolder
from server import backup, conducting, sealed
from server.home import Home
from server.sealed import SealedReader, SealedWriter

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing is cheap here, so that the tests are."""
    monkeypatch.setattr(sealed, "SCRYPT_LOG_N", 10)
    monkeypatch.setattr(sealed, "CHUNK_BYTES", 4096)


@pytest.fixture
def home(toy: Path) -> Home:
    """A coordinator with three sites, whose server holds one run that is under way."""
    home = Home.create(toy / "coordinator", name="f", host="127.0.0.1", port=1, control_port=2)
    for name in ("east", "north", "south"):
        home.approve(Membership(toy / "sites" / name).request())
    home.database.parent.mkdir()
    files.write_bytes(home.folder / "logs/superlink.log", b"a log")
    engine = sqlalchemy.create_engine(f"sqlite:///{home.database}")
    Task.metadata.create_all(engine, tables=[Task.__table__])
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))
        now = datetime.now(UTC)
        row = {"task_id": 7, "type": "serverapp", "run_id": 5, "token": "t", "pending_at": now}
        connection.execute(sqlalchemy.insert(Task).values(**row, active_until=now))
    engine.dispose()
    return home


def contents(home: Home) -> dict[str, bytes]:
    """What a backup keeps, but for the server's state."""
    found = {
        path.relative_to(home.folder).as_posix(): path for path in home.folder.rglob("*") if path.is_file()
    }
    return {name: path.read_bytes() for name, path in found.items() if name.split("/")[0] in backup.KEPT}


def sealed_tar(file: Path, members: dict[str, tuple[bytes, bytes]]) -> None:
    """A file that is sealed as a backup is, with any members: name to type and content."""
    with file.open("wb") as out:
        writer = SealedWriter(out, passphrase=PASSPHRASE)
        with tarfile.open(fileobj=writer, mode="w|") as archive:
            for name, (kind, content) in members.items():
                member = tarfile.TarInfo(name)
                member.type, member.size = kind, len(content)
                member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                archive.addfile(member, io.BytesIO(content))
        writer.finish()


def test_a_restored_home_has_every_key_token_site_and_run(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "b.foedus"
    with closing(sqlite3.connect(home.database)) as busy:  # a server in the middle of a write
        busy.execute("UPDATE task SET run_id = 6")
        count = backup.backup(home, file, passphrase=PASSPHRASE)
    restored = backup.restore(file, tmp_path / "elsewhere", passphrase=PASSPHRASE)
    before, after = contents(home), contents(restored)
    assert after == before
    assert count == len(before) + 1
    assert restored.kit("north").fingerprint() == home.kit("north").fingerprint()
    assert restored.token("admin") == home.token("admin")
    assert not (restored.folder / "logs").exists()
    for secret in (file, restored.pki / pki.CA_KEY, restored.folder / "tokens/admin", restored.database):
        assert secret.stat().st_mode & 0o077 == 0, secret
    with closing(sqlite3.connect(restored.database)) as state:
        rows = state.execute("SELECT run_id, token, sub_status, details FROM task").fetchall()
    assert rows == [(5, None, "failed", backup.ENDED)], (
        "the snapshot is of what was committed; its run is ended"
    )
    assert home.token("admin").encode() not in file.read_bytes()


def test_a_restored_home_goes_on_with_a_run(
    home: Home, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs", reference=False)
    keep = RunFolder.checkpoint

    def checkpoint(self: RunFolder, number: int, *args: object, **more: object) -> None:
        keep(self, number, *args, **more)  # type: ignore[arg-type]
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", checkpoint)
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(toy / "study.toml", toy / "sites", runs=home.runs, reference=False)
    monkeypatch.setattr(RunFolder, "checkpoint", keep)
    backup.backup(home, tmp_path / "b.foedus", passphrase=PASSPHRASE)
    restored = backup.restore(tmp_path / "b.foedus", tmp_path / "elsewhere", passphrase=PASSPHRASE)
    [run] = [RunFolder.open(path) for path in restored.runs.iterdir()]
    assert len(run.rounds()) == 2
    simulation.resume(run)
    assert (run.path / HEAD_FILE).read_bytes() == (whole.path / HEAD_FILE).read_bytes()
    run.verify_log()


def test_a_run_on_the_server_is_submitted_again_from_where_it_is_now(
    home: Home, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(home.runs, toy / "study.toml", policy=None, engine=conducting.ENGINE, sites="")
    run.set_state("running", number=5, attempts=0)
    backup.backup(home, tmp_path / "b", passphrase=PASSPHRASE)
    restored = backup.restore(tmp_path / "b", tmp_path / "new", passphrase=PASSPHRASE)
    submitted: list[Path] = []

    class Server:
        """Says of runs what the restored state says of their tasks."""

        def __init__(self, home: Home) -> None:
            self.database = home.database

        def runs(self) -> dict[int, tuple[str, str]]:
            with closing(sqlite3.connect(self.database)) as state:
                rows = state.execute("SELECT run_id, finished_at IS NULL FROM task").fetchall()
            return {number: ("running" if going else "finished:failed", "") for number, going in rows}

        def start(self, folder: Path, *, version: str) -> int:
            submitted.append(folder)
            return 9

    monkeypatch.setattr(conducting, "Control", Server)
    conducting.look_after(home)
    assert submitted == [], "the one it was taken from goes on by itself"
    conducting.look_after(restored)
    assert submitted == [restored.runs / run.run_id]
    assert RunFolder(submitted[0]).state()["number"] == 9


def test_half_a_line_of_a_log_is_left_out(home: Home, tmp_path: Path) -> None:
    (home.folder / "audit.jsonl").write_bytes(b'{"whole": 1}\n{"hal')
    backup.backup(home, tmp_path / "b", passphrase=PASSPHRASE)
    restored = backup.restore(tmp_path / "b", tmp_path / "new", passphrase=PASSPHRASE)
    assert (restored.folder / "audit.jsonl").read_bytes() == b'{"whole": 1}\n'


@pytest.mark.parametrize("place", ["start", "salt", "first", "middle", "end"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(home: Home, tmp_path: Path, place: str) -> None:
    file = tmp_path / "b.foedus"
    backup.backup(home, file, passphrase=PASSPHRASE)
    content = bytearray(file.read_bytes())
    at = {"start": 3, "salt": 20, "first": 60, "middle": len(content) // 2, "end": len(content) - 1}[place]
    content[at] ^= 1
    file.write_bytes(content)
    _refused(file, tmp_path, match="damaged")


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_backup_that_is_cut_off_is_refused(home: Home, tmp_path: Path, chunks: int) -> None:
    """Also where a chunk ends: the one that was last knows it."""
    file = tmp_path / "b.foedus"
    backup.backup(home, file, passphrase=PASSPHRASE)
    content = file.read_bytes()
    header, chunk = len(sealed.MAGIC) + 1 + sealed.SALT_BYTES, sealed.CHUNK_BYTES + sealed.TAG_BYTES
    file.write_bytes(content[: header + chunks * chunk] if chunks else content[:-7])
    _refused(file, tmp_path, match="damaged|cut off")


def test_chunks_in_another_order_are_refused(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "b.foedus"
    backup.backup(home, file, passphrase=PASSPHRASE)
    content = file.read_bytes()
    header, chunk = len(sealed.MAGIC) + 1 + sealed.SALT_BYTES, sealed.CHUNK_BYTES + sealed.TAG_BYTES
    parts = [content[header + i * chunk : header + (i + 1) * chunk] for i in range(len(content) // chunk + 1)]
    parts[0], parts[1] = parts[1], parts[0]
    file.write_bytes(content[:header] + b"".join(parts))
    _refused(file, tmp_path, match="damaged")


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/outside",
        "runs/../../outside",
        "pki/../../outside",
        "authorized_keys",
        "state/other.db",
    ],
)
def test_a_member_that_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "b.foedus"
    sealed_tar(file, {"coordinator.json": (tarfile.REGTYPE, b"{}"), name: (tarfile.REGTYPE, b"x")})
    _refused(file, tmp_path, match="which no backup does")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    file = tmp_path / "b.foedus"
    sealed_tar(file, {"runs": (kind, b"")})
    _refused(file, tmp_path, match="which no backup does")


def test_an_archive_that_is_no_coordinator_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "b.foedus"
    sealed_tar(file, {"identity.key": (tarfile.REGTYPE, b"x")})
    _refused(file, tmp_path, match="no coordinator's folder")
    with file.open("wb") as out:
        writer = SealedWriter(out, passphrase=PASSPHRASE)
        writer.write(b"no archive at all")
        writer.finish()
    _refused(file, tmp_path, match="does not hold a backup")


def test_a_wrong_passphrase_a_short_one_and_a_folder_in_use_are_refused(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "b.foedus"
    with pytest.raises(RunError, match="choose 12 or more"):
        backup.backup(home, file, passphrase="short")
    assert not file.exists()
    backup.backup(home, file, passphrase=PASSPHRASE)
    with pytest.raises(RunError, match="never overwritten"):
        backup.backup(home, file, passphrase=PASSPHRASE)
    _refused(file, tmp_path, match="passphrase is another", passphrase="another passphrase")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        backup.restore(file, tmp_path / "used", passphrase=PASSPHRASE)
    with pytest.raises(RunError, match="No such file"):
        backup.restore(tmp_path / "none", tmp_path / "new", passphrase=PASSPHRASE)


def _refused(file: Path, folder: Path, *, match: str, passphrase: str = PASSPHRASE) -> None:
    with pytest.raises(FoedusError, match=match):
        backup.restore(file, folder / "new/home", passphrase=passphrase)
    assert list((folder / "new").iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 3 * 4096])
def test_what_is_sealed_comes_back(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    with (tmp_path / "f").open("wb") as out:
        writer = SealedWriter(out, passphrase=PASSPHRASE)
        writer.write(content)
        writer.finish()
    with (tmp_path / "f").open("rb") as source:
        assert io.BufferedReader(SealedReader(source, passphrase=PASSPHRASE)).read() == content
