"""Run folders: everything a run was asked, did and found, on disk, written atomically."""

import difflib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foedus import files
from foedus.errors import RunError
from foedus.statistic import Arrays
from foedus.study import Study, load_study

STUDY_FILE = "study.toml"
POLICY_FILE = "policy.toml"
POLICY_SIGNATURE_FILE = "policy.toml.sig"
ROUNDS_FILE = "rounds.jsonl"
LOG_FILE = "log.jsonl"
STATE_FILE = "run.json"
RESULTS_FILE = "results.json"
AUDIT_FILE = "audit.json"
COMMITMENTS_FILE = "commitments.json"
MITIGATION_FILE = "mitigation.json"
CARD_FILE = "model-card.yaml"
APPROVAL_FILE = "approval.json"
FEWSHOT_FILE = "fewshot.json"
REPORT_FILE = "report.html"
HEAD_FILE = "model/head.safetensors"
SERVING_FILE, HISTOGRAMS_FILE = "model/serving.json", "model/histograms.safetensors"
LATEST = "checkpoints/latest.json"
UNSEALED = frozenset({STATE_FILE, LOG_FILE, APPROVAL_FILE, "checkpoints", "bundle"})
"""What of a run folder changes after the run, or only serves to resume it; everything else is sealed."""
POLICY_FIXED, POLICY_CHANGED, SEALED, ABSENT = "policy fixed", "policy changed", "sealed", "did not count"
"""Events of the log."""


class RunFolder:
    """One run on disk. `path` exists; its study is valid."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        root: Path,
        study_file: Path,
        *,
        policy: str | None,
        engine: str,
        sites: str,
        policy_signature: str | None = None,
    ) -> "RunFolder":
        """A new run folder below `root` that keeps the study and the policy as they are now.

        Args:
            root: Where runs live.
            study_file: The study.toml.
            policy: Text of the auditor's policy, if the study has one.
            engine: "local" or "ray".
            sites: Folder of the sites, for resuming.
            policy_signature: Text of the signature beside the policy, if it has one.
        """
        study = load_study(study_file)
        started = datetime.now(UTC)
        run_id = f"{study.study.name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        run = cls(root / run_id)
        files.write_bytes(run.path / STUDY_FILE, study_file.read_bytes())
        run.log("created", study=study.study.name, engine=engine)
        if policy is not None:
            run.set_policy(POLICY_FIXED, policy.encode(), (policy_signature or "").encode())
        run.set_state("running", engine=engine, sites=sites, started=started.isoformat(timespec="seconds"))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            RunError: If `path` is not one.
        """
        if not (path / STUDY_FILE).is_file() or not (path / STATE_FILE).is_file():
            raise RunError(f"{path} is not a run folder; see foedus list for those that are.")
        return cls(path)

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    def study(self) -> Study:
        """The study as it was when the run began."""
        return load_study(self.path / STUDY_FILE)

    def state(self) -> dict[str, Any]:
        """Status ("running", "finished", "failed"), engine, sites, times."""
        return dict(files.read_json(self.path / STATE_FILE))

    def set_state(self, status: str, **more: Any) -> None:
        """Change the status; other fields are kept unless given."""
        before = self.state() if (self.path / STATE_FILE).exists() else {}
        files.write_json(self.path / STATE_FILE, {**before, **more, "status": status})

    def log(self, event: str, **fields: Any) -> None:
        """Append an event to the hash chain of log.jsonl; run.json keeps its head, so the last line is bound, too."""
        path = self.path / LOG_FILE
        lines = path.read_bytes().splitlines() if path.exists() else []
        previous = hashlib.sha256(lines[-1]).hexdigest() if lines else "0" * 64
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            **fields,
            "previous": previous,
        }
        self._append(path, entry)
        if (self.path / STATE_FILE).exists():
            self.set_state(self.state()["status"], log=self.log_head())

    def set_policy(self, event: str, policy: bytes, signature: bytes) -> None:
        """Keep a policy and its signature (empty without one), and log their digests before anything is asked."""
        files.write_bytes(self.path / POLICY_FILE, policy)
        if signature:
            files.write_bytes(self.path / POLICY_SIGNATURE_FILE, signature)
        else:
            (self.path / POLICY_SIGNATURE_FILE).unlink(missing_ok=True)
        signed = hashlib.sha256(signature).hexdigest() if signature else None
        self.log(event, policy_sha256=hashlib.sha256(policy).hexdigest(), signature_sha256=signed)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of log.jsonl about one kind of event, oldest first.

        Raises:
            RunError: If a line is not JSON.
        """
        return [line for line in self._lines() if line.get("event") == event]

    def digests(self) -> dict[str, str]:
        """Path below the run folder to sha256 (hex), of every file that a finished run is sealed with."""
        found = {}
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            if path.is_file() and parts[0] not in UNSEALED and not path.name.startswith("."):
                found["/".join(parts)] = files.sha256_file(path)
        return found

    def seal(self) -> None:
        """Log the digest of every file the run has written."""
        self.log(SEALED, files=self.digests())

    def note_stage(self, stage: str, found: Mapping[str, Any]) -> None:
        """Keep which stage a run has come to, for who watches; `found` is not kept."""
        if stage != "round":
            self.set_state(self.state()["status"], stage=stage)

    def note_absent(self, what: str, rejected: Mapping[str, str]) -> None:
        """Log which sites did not count in an exchange, and why; nothing where all did."""
        if rejected:
            sites = [{"site": site, "reason": reason} for site, reason in sorted(rejected.items())]
            self.log(ABSENT, what=what, sites=sites)

    def log_head(self) -> dict[str, Any]:
        """Size and sha256 of log.jsonl as it is now; the file may grow later."""
        content = (self.path / LOG_FILE).read_bytes()
        return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def log_begins(self, head: dict[str, Any]) -> bool:
        """Whether log.jsonl still begins with what `log_head` described."""
        content = (self.path / LOG_FILE).read_bytes()[: int(head["size_bytes"])]
        return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} == head

    def verify_log(self) -> None:
        """Check the hash chain of log.jsonl.

        Raises:
            RunError: Naming the first line that does not follow from the one before.
        """
        previous = "0" * 64
        raw = (self.path / LOG_FILE).read_bytes().splitlines()
        for number, (line, entry) in enumerate(zip(raw, self._lines(), strict=True), start=1):
            if entry.get("previous") != previous:
                raise RunError(f"{self.path / LOG_FILE}: line {number} does not follow from the one before.")
            previous = hashlib.sha256(line).hexdigest()

    def rounds(self) -> list[dict[str, Any]]:
        """One dictionary per finished round."""
        path = self.path / ROUNDS_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def checkpoint(self, number: int, arrays: Arrays, *, lines: list[dict[str, Any]], **more: Any) -> None:
        """Make round `number` durable: its arrays, then the pointer to them, then rounds.jsonl.

        The checkpoint before stays too; older ones are removed.

        Raises:
            RunError: If the disk is full; the checkpoint before is then intact.
        """
        name = f"checkpoints/round-{number:05d}.safetensors"
        before = files.read_json(self.path / LATEST)["file"] if (self.path / LATEST).exists() else name
        digest = files.write_arrays(self.path / name, arrays)
        files.write_json(
            self.path / LATEST, {"round": number, "file": name, "sha256": digest, "lines": lines, **more}
        )
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        files.write_bytes(self.path / ROUNDS_FILE, text.encode())
        for path in (self.path / "checkpoints").glob("round-*.safetensors"):
            if path not in (self.path / name, self.path / before):
                path.unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Any], Arrays] | None:
        """The last durable checkpoint, or None before the first.

        Raises:
            RunError: If its arrays are not what was written.
        """
        if not (self.path / LATEST).exists():
            return None
        pointer = dict(files.read_json(self.path / LATEST))
        return pointer, files.read_arrays(self.path / pointer["file"], sha256=pointer["sha256"])

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for number, line in enumerate((self.path / LOG_FILE).read_bytes().splitlines(), start=1):
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise RunError(
                    f"{self.path / LOG_FILE}: line {number} is not JSON; it was altered."
                ) from None
        return found

    def _append(self, path: Path, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, sort_keys=True) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{path} could not be written ({error.strerror}); free some space.") from error


def find_run(root: Path, name: str) -> RunFolder:
    """The run with that id below `root`, or at that path.

    Raises:
        RunError: If there is none.
    """
    for candidate in (root / name, Path(name)):
        if (candidate / STATE_FILE).is_file():
            return RunFolder.open(candidate)
    near = difflib.get_close_matches(name, [path.parent.name for path in root.glob(f"*/{STATE_FILE}")], n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"see foedus list --runs {root}."
    raise RunError(f"there is no run '{name}' in {root}; {hint}")


def list_runs(root: Path) -> list[RunFolder]:
    """All runs below `root` whose run.json can be read, oldest first: one that is damaged holds up no other."""
    found = {}
    for path in root.glob(f"*/{STATE_FILE}"):
        run = RunFolder(path.parent)
        with suppress(RunError):
            found[str(run.state().get("started", "")), run.run_id] = run
    return [found[key] for key in sorted(found)]
