"""The coordinator's side of one study: who takes part, and every question it may ask them."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import sqrt
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from foedus import __version__, noising, records
from foedus.backbones import Standardiser, describe
from foedus.budget import plan, release_of
from foedus.door import COLLUDERS
from foedus.errors import DoorError, RoundError
from foedus.evaluation import Evaluation
from foedus.head import LinearHead
from foedus.metrics import Metrics
from foedus.model import Model
from foedus.secure.roster import Roster
from foedus.statistic import Arrays, Quantity, Statistic
from foedus.study import Study
from foedus.sums import lacking
from server.exchange import Cohort, Gathered
from server.figures import released_figures
from server.local_grid import LocalGrid
from server.masked import MaskedSums
from server.summing import Listener, PlainSums, Sums

log = logging.getLogger(__name__)
T = TypeVar("T")
Note = Callable[[str, Mapping[str, str]], None]
AWAY = "it is approved and not signed in; foedus site check at the site says why"


@dataclass
class Federation:
    """Sites that agreed to a study.

    Attributes:
        grid: Flower's grid.
        study: The study.
        run_id: Names the run in the sites' own reports.
        cohort: Node id to name of the sites that train.
        newcomers: Node id to name of the sites that only adapt the result.
        refused: Site (or node) to why it does not take part.
        standardiser: Set once the feature moments are known.
        backbone: The tuned tensors that statistics are measured with; as pre-trained when empty.
        n_train: Training examples of all sites together; set with the standardiser.
        balance: What each group's examples count in training, as it travels; empty unless the study asks.
        sums: How totals are learnt.
        note: Told of every exchange in which sites did not count: what it was, and why of each; rounds of
            training have that in their own line.
    """

    grid: Grid
    study: Study
    run_id: str
    cohort: dict[int, str]
    newcomers: dict[int, str]
    refused: dict[str, str]
    standardiser: Standardiser | None = None
    backbone: Arrays = field(default_factory=dict)
    n_train: int = 0
    balance: str = ""
    sums: Sums = field(default_factory=PlainSums)
    note: Note = lambda what, rejected: None

    @classmethod
    def enlist(
        cls,
        grid: Grid,
        study: Study,
        run_id: str,
        *,
        approved: Mapping[int, str] | None = None,
        note: Note | None = None,
    ) -> "Federation":
        """Ask every node on the grid whether it takes part.

        Args:
            grid: Flower's, or one of ours.
            study: What is conducted.
            run_id: Names the run in every message.
            approved: Node id to the name it was approved under; a node may answer under no other, and one that
                is not there does not count. None where nobody is approved.
            note: As `Federation.note`.

        Raises:
            RoundError: If fewer than min_sites agree; a site that shares a name with another, or has another
                version or backbone than the coordinator, does not count.
        """
        labels = grid.labels if isinstance(grid, LocalGrid) and approved is None else approved or {}
        nodes = {node: labels.get(node, f"node-{node}") for node in sorted(grid.get_node_ids())}
        own = cache(lambda: describe(study.backbone, study.table).digest)
        federation = cls(grid, study, run_id, nodes, {}, {})
        if note is not None:
            federation.note = note
        new_sites = study.newcomers
        names: dict[str, str] = {}
        rosters: dict[str, Roster] = {}

        def accept(node: str, reply: Message) -> None:
            name = _agreed_name(reply, set(names.values()), backbone=own())
            if approved is not None and name != node:
                raise DoorError(
                    f"it answers as '{name}' and was approved as '{node}'; give it that name in its site.toml"
                )
            if study.door.masked and name not in new_sites:
                rosters[name] = _own_roster(reply, name)
            names[node] = name

        messages = federation.messages(records.QUERY_ENLIST, nodes)
        cohort = federation._cohort(nodes, quorum=0)
        gathered = cohort.gather(messages, accept, what="enlisting")
        away = {name for node, name in (approved or {}).items() if node not in nodes}
        federation.refused = gathered.rejected | dict.fromkeys(sorted(away), AWAY)
        known = {node: names[label] for node, label in nodes.items() if label in names}
        if rosters:
            roster = _common_roster(rosters)
            others = {name: found for name, found in rosters.items() if found.digest != roster.digest}
            federation.refused |= {name: _another_roster(name, others[name], roster) for name in others}
            known = {node: name for node, name in known.items() if name not in others}
            federation.sums = MaskedSums(roster, lambda: federation.config({}))
        federation.note("enlisting", federation.refused)
        federation.newcomers = {node: name for node, name in known.items() if name in new_sites}
        federation.cohort = {node: name for node, name in known.items() if name not in new_sites}
        federation._require_sites(new_sites - set(known.values()))
        return federation

    def ask(
        self,
        statistic: Statistic[T],
        *,
        split: str,
        newcomers: bool = False,
        what: str | None = None,
        listen: Listener | None = None,
    ) -> T:
        """The statistic of all sites together; no site's own value is kept.

        Args:
            statistic: What to measure.
            split: "train", "validation", "test" or "all".
            newcomers: Ask the sites that only adapt, instead of those that train.
            what: Names the exchange in errors.
            listen: Told of every reply that goes into the sum, for the words beside it.

        Raises:
            RoundError: If fewer than min_sites answer, or too few examples are behind the total.
        """
        nodes = self.newcomers if newcomers else self.cohort
        request = {
            records.STATISTIC: statistic.name,
            records.SETTINGS: json.dumps(dict(statistic.settings()), sort_keys=True),
            records.SPLIT: split,
        }
        messages = self.messages(
            records.QUERY_STATISTIC, nodes, config=request, parameters=statistic.arrays()
        )
        cohort = self._cohort(nodes, quorum=1 if newcomers else self.study.federation.min_sites)
        what = what or f"asking for {statistic.name}"
        declared = statistic.declare()
        if self.study.door.private:
            noised = self.noised(declared, release_of(statistic.name))
            total, gathered = self.sums.total(cohort, messages, noised, what=what, listen=listen)
            self.note(what, gathered.rejected)
            return statistic.read(noising.as_declared(total, declared))
        sums = PlainSums() if newcomers else self.sums
        total, gathered = sums.total(cohort, messages, declared, what=what, listen=listen)
        self.note(what, gathered.rejected)
        _require_enough(total, declared, what=what)
        return statistic.read(total)

    def use(self, model: Model) -> LinearHead:
        """The model's head; from now on every statistic is measured with its backbone."""
        self.backbone = model.backbone
        return model.head

    def deviation(self, statistic: Statistic[T]) -> float:
        """Standard deviation of the noise on each entry of a private statistic's total of one array.

        What to expect, not what is promised: the promise rests on the shares of the sites that are
        counted on, and all sites of the cohort add one.
        """
        honest = self.sums.roster.threshold - COLLUDERS if isinstance(self.sums, MaskedSums) else 1
        multiplier = plan(self.study).multiplier(release_of(statistic.name))
        [promised] = noising.deviation(statistic.declare(), multiplier).values()
        return promised * sqrt(max(1.0, len(self.cohort) / honest))

    def noised(self, quantities: Mapping[str, Quantity], release: str) -> dict[str, Quantity]:
        """What arrives when `quantities` leave as that release of a private study."""
        return noising.declared(quantities, plan(self.study).multiplier(release))

    def reports(self, model: Model) -> tuple[list[dict[str, Any]], dict[str, Metrics]]:
        """Have every site write its own report.

        Returns:
            The figures of the sites whose policy releases them; and the metrics of the sites'
            local (and personal) heads on all test examples together.
        """
        head = self.use(model)
        messages = self.messages(records.QUERY_REPORT, self.cohort, arrays=head.arrays())
        if self.study.door.private:
            gathered = self.gather(messages, lambda name, reply: None, what="asking for reports")
            self.note("asking for reports", gathered.rejected)
            return [], {}
        kinds = ["local"] if self.study.backbone.personal == "none" else ["local", "personal"]
        evaluation = Evaluation([head] * len(kinds), detail=True, multilabel=self.study.multilabel)
        released: dict[str, dict[str, Any]] = {}

        def listen(name: str, reply: Message) -> None:
            words = reply.content.config_records.get(records.CONFIG, ConfigRecord())
            if records.FIGURES not in words:
                return
            try:
                released[name] = released_figures(str(words[records.FIGURES]), site=name)
            except DoorError as error:  # its counts are in the sum already; only its own figures are missing
                log.warning("site '%s' is shown without figures of its own: %s", name, error)

        total, gathered = self.total(messages, evaluation.declare(), what="asking for reports", listen=listen)
        self.note("asking for reports", gathered.rejected)
        together = evaluation.read(total)
        metrics = {kind: row[0].metrics for kind, row in zip(kinds, together, strict=True)}
        return [released[name] for name in sorted(released)], metrics

    def total(
        self,
        messages: Iterable[Message],
        quantities: Mapping[str, Quantity],
        *,
        what: str,
        listen: Listener | None = None,
    ) -> tuple[Arrays, Gathered]:
        """The sum of the training cohort's contributions, under the study's quorum and deadline.

        Raises:
            RoundError: If fewer than min_sites answer, or too few examples are behind the total.
        """
        cohort = self._cohort(self.cohort, quorum=self.study.federation.min_sites)
        total, gathered = self.sums.total(cohort, messages, quantities, what=what, listen=listen)
        _require_enough(total, quantities, what=what)
        return total, gathered

    def gather(
        self, messages: Iterable[Message], accept: Callable[[str, Message], None], *, what: str
    ) -> Gathered:
        """An exchange with the training cohort under the study's quorum and deadline."""
        return self._cohort(self.cohort, quorum=self.study.federation.min_sites).gather(
            messages, accept, what=what
        )

    def messages(
        self,
        kind: str,
        nodes: Iterable[int],
        *,
        config: dict[str, str] | None = None,
        parameters: Arrays | None = None,
        arrays: Arrays | None = None,
    ) -> list[Message]:
        """One message a node, all with the same content."""
        content = RecordDict({records.CONFIG: self.config(config or {})})
        self.attach_standardiser(content)
        if self.backbone:
            content[records.TUNED] = records.to_record(self.backbone)
        if parameters:
            content[records.PARAMETERS] = records.to_record(parameters)
        if arrays:
            content[records.ARRAYS] = records.to_record(arrays)
        return [Message(content, dst_node_id=node, message_type=kind) for node in nodes]

    def config(self, more: dict[str, str]) -> ConfigRecord:
        """What every message carries: the study, and what this one asks."""
        balance = {records.BALANCE: self.balance} if self.balance else {}
        return ConfigRecord(
            {records.STUDY: self.study.to_json(), records.RUN: self.run_id, **balance, **more}
        )

    def attach_standardiser(self, content: RecordDict) -> None:
        """Add the standardiser, once it is known."""
        if self.standardiser is not None:
            content[records.STANDARDISER] = records.to_record(self.standardiser.arrays())

    def _cohort(self, nodes: dict[int, str], *, quorum: int) -> Cohort:
        return Cohort(self.grid, nodes, quorum=quorum, timeout_s=self.study.federation.round_timeout_s)

    def _require_sites(self, missing_newcomers: frozenset[str]) -> None:
        minimum = self.study.federation.min_sites
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.refused.items()))
        if len(self.cohort) < minimum:
            raise RoundError(
                f"{len(self.cohort)} sites can take part, federation.min_sites is {minimum}. "
                f"{reasons or 'Add sites'}. Mend the sites or lower min_sites."
            )
        if missing_newcomers:
            names = ", ".join(sorted(missing_newcomers))
            raise RoundError(f"fewshot.new_sites names {names}, which did not answer. {reasons}")


def _require_enough(total: Arrays, quantities: Mapping[str, Quantity], *, what: str) -> None:
    if fewest := lacking(total, quantities):
        raise RoundError(
            f"{what}: fewer than {fewest} examples of all sites together are behind the total, which would tell of "
            "single ones; it was not read: add sites or examples."
        )


def _own_roster(reply: Message, name: str) -> Roster:
    words = reply.content.config_records.get(records.CONFIG, ConfigRecord())
    roster = Roster.decode(str(words.get(records.ROSTER, "")))
    if name not in roster.sites:
        raise DoorError(f"site '{name}' is not on the roster it has pinned")
    return roster


def _common_roster(rosters: Mapping[str, Roster]) -> Roster:
    """The one most sites have pinned, whoever answers first; of equally many, that of the first site by name."""
    pinned = Counter(rosters[name].digest for name in sorted(rosters))
    [(digest, _)] = pinned.most_common(1)
    return next(roster for roster in rosters.values() if roster.digest == digest)


def _another_roster(name: str, found: Roster, common: Roster) -> str:
    return (
        f"site '{name}' has another roster ({found.fingerprint()}) than the others ({common.fingerprint()}); "
        "join there again with the coordinator's newest kit"
    )


def _agreed_name(reply: Message, taken: set[str], *, backbone: str) -> str:
    words = reply.content.config_records.get(records.CONFIG, ConfigRecord())
    name, version = str(words.get(records.SITE, "")), str(words.get(records.VERSION, ""))
    if not name:
        raise DoorError("the reply names no site")
    if version != __version__:
        raise DoorError(
            f"site '{name}' runs Foedus {version}, the coordinator {__version__}; install the same"
        )
    digest = str(words.get(records.BACKBONE, ""))
    if digest != backbone:
        raise DoorError(
            f"site '{name}' has another backbone (digest {digest[:12] or 'missing'}) than the coordinator "
            f"({backbone[:12]}); put the same files at both"
        )
    if name in taken:
        raise DoorError(f"another node already answers as '{name}'; site names must differ")
    return name
