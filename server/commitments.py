"""What each site committed to beside its counts for the audit, collected as the replies arrive."""

import logging

from flwr.app import ConfigRecord, Message

from fairness.commitments import Commitment, Commitments, Missing, check
from foedus import files, records
from foedus.errors import SecureSumError
from foedus.runs import AUDIT_FILE, COMMITMENTS_FILE, RunFolder
from server.federation import Federation
from server.masked import MaskedSums

log = logging.getLogger(__name__)


class Listening:
    """Hears every reply that goes into the sum; a site without a valid commitment is named, not left out."""

    def __init__(self, federation: Federation) -> None:
        self._run = federation.run_id
        self._roster = federation.sums.roster if isinstance(federation.sums, MaskedSums) else None
        self._heard: dict[str, Commitment] = {}
        self._missing: dict[str, str] = {}

    def __call__(self, name: str, reply: Message) -> None:
        """Take one reply's words."""
        words = reply.content.config_records.get(records.CONFIG, ConfigRecord())
        try:
            found = Commitment.decode(str(words.get(records.COMMITMENT, "")))
            check(found, run=self._run, site=name, roster=self._roster)
            self._heard[name] = found
        except SecureSumError as error:
            self._missing[name] = str(error)
            log.warning("the audit counts site '%s' without a commitment: %s", name, error)

    def write(self, run: RunFolder) -> None:
        """Write commitments.json beside the audit it belongs to."""
        found = Commitments(
            run=self._run,
            audit_sha256=files.sha256_file(run.path / AUDIT_FILE),
            roster=self._roster,
            sites=[self._heard[name] for name in sorted(self._heard)],
            missing=[Missing(site=name, reason=self._missing[name]) for name in sorted(self._missing)],
        )
        files.write_bytes(run.path / COMMITMENTS_FILE, found.to_json().encode())
