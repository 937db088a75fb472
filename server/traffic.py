"""What a study will send: every exchange, and its bytes to and from one site, before anything is asked.

Requests are made as they will be, and weighed; answers follow from what each statistic declares.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fairness.audit import audit_request, subject
from fairness.edges import N_BINS, AuditEdges
from fairness.policy import Policy
from fairness.private import private_audit_request
from fewshot.episode_sums import EpisodeSums
from fewshot.private import PrivatePrototypes, PrivateRidge
from fewshot.prototypical import PrototypeSums
from fewshot.ridge import RidgeSums
from fewshot.whitening import MEAN, NORMALISE, TRANSFORM, Whitening
from foedus import __version__, gradient, noising, records, updates
from foedus.backbones import Centre, Moments, Standardiser, describe
from foedus.backbones.coral import Scatter
from foedus.budget import plan, release_of, round_name
from foedus.data.quality import DataQuality
from foedus.evaluation import Evaluation
from foedus.head import LinearHead
from foedus.histograms import Histograms
from foedus.model import Model
from foedus.statistic import Arrays, Quantity, Statistic
from foedus.study import Study
from server.legs import Traffic, masked_sum, plain_sum, secure_setup
from server.masked import BATCH
from server.serving import TEMPERATURES as SERVED_TEMPERATURES
from server.start import PENALTIES, TEMPERATURES

STAMP = "-20261121-101500-1f2e"
"""As long as what a run's id adds to the study's name."""
MANY = 10**5
"""About as many training examples as all sites have together."""
NAME_AND_KEY = 50
"""About the bytes a site's key takes on the roster, beside its name."""


@dataclass(frozen=True)
class Exchange:
    """One kind of exchange with a site.

    Attributes:
        what: Names it.
        times: How often it happens, at most.
        plain: One of them as it is.
        masked: One of them inside a secure sum; None where none is made.
    """

    what: str
    times: int
    plain: Traffic
    masked: Traffic | None = None

    def once(self, *, masked: bool) -> Traffic:
        """One of them, in a study that masks or in one that does not."""
        return self.masked if masked and self.masked is not None else self.plain


@dataclass(frozen=True)
class Forecast:
    """A study before it runs.

    Attributes:
        study: The study.
        model: What is trained, of the right shapes; the values do not matter.
        dim: Length of a feature vector.
        sites: Names of the sites that train.
        policy: The auditor's policy, if the study has one.
    """

    study: Study
    model: Model
    dim: int
    sites: Sequence[str]
    policy: Policy | None = None

    def exchanges(self) -> list[Exchange]:
        """Everything one site is asked; the last sets up the secure sums of all the others."""
        rounds = [self.round()] if self.study.federation.rounds else []
        found = [self._enlist(), *self._start(), *rounds, *self._after_rounds()]
        if self.study.door.masked:
            n_sums = sum(exchange.times for exchange in found if exchange.masked is not None)
            setup = secure_setup(self._config_bytes(), self.sites)
            found.append(Exchange("keys and shares of the secure sums", ceil(n_sums / BATCH), setup))
        return found

    def round(self) -> Exchange:
        """One round of training: the model to a site, its contribution back."""
        study = self.study
        config: dict[str, Any] = {records.N_TRAIN: MANY, records.N_SITES: len(self.sites)}
        config[records.SERVER_ROUND] = study.federation.rounds
        if study.federation.strategy == "fedprox":
            config[records.PROXIMAL_MU] = study.federation.proximal_mu
        if study.door.private:
            shapes = gradient.quantities(self.model, clip_norm=study.door.clip_norm)
            declared = noising.declared(shapes, plan(study).multiplier(round_name(1)))
        else:
            declared = updates.quantities(self.model, n_sites=len(self.sites), n_total=MANY)
        request = self._request(config, arrays=self.model.arrays(), tuned=False)
        return self._sum("training round", request, declared, times=study.federation.rounds)

    def _enlist(self) -> Exchange:
        roster = sum(len(name) + NAME_AND_KEY for name in self.sites) if self.study.door.masked else 0
        words = len(self.sites[0]) + len(__version__) + 64 + roster
        return Exchange("enlisting", 1, Traffic(self._request({}, tuned=False, standardised=False), words))

    def _start(self) -> Iterator[Exchange]:
        n_classes, dim, start = self.study.n_classes, self.dim, self.study.federation.start
        if self.study.door.private:
            yield self._ask("where the examples lie", Centre(dim=dim), tuned=False)
            if start == "ridge":
                yield self._ask(
                    "ridge sums", PrivateRidge(n_classes, dim, self.study.multilabel), tuned=False
                )
            elif start == "prototypes":
                yield self._ask("prototype sums", PrivatePrototypes(n_classes, dim), tuned=False)
            return
        yield self._ask("feature moments", Moments(dim=dim), tuned=False, standardised=False)
        if self.study.backbone.align == "coral":
            yield self._ask("how features vary at a site", Scatter(dim=dim), tuned=False)
        if start == "ridge":
            ridge = RidgeSums(n_classes=n_classes, dim=dim, multilabel=self.study.multilabel)
            yield self._ask("ridge sums", ridge, tuned=False)
        elif start == "prototypes":
            yield self._ask("prototype sums", PrototypeSums(n_classes=n_classes, dim=dim), tuned=False)
        heads = [self.model.head] * (len(PENALTIES) if start == "ridge" else 1)
        temperatures = (1.0,) if start == "zero" else TEMPERATURES
        choice = Evaluation(heads, temperatures, multilabel=self.study.multilabel)
        yield self._ask("choosing the start", choice, tuned=False)

    def _after_rounds(self) -> Iterator[Exchange]:
        study, head = self.study, self.model.head
        request = self._request({}, arrays=head.arrays())
        if study.door.private:
            yield Exchange("site reports", 1, Traffic(request, 0))
            counted = Evaluation([head], counts_only=True, multilabel=study.multilabel)
            yield self._ask("final test", counted)
        else:
            if study.federation.rounds and study.validates:
                judged = Evaluation([head], multilabel=study.multilabel)
                yield self._ask("validating a round", judged, times=study.federation.rounds)
            kinds = 1 if study.backbone.personal == "none" else 2
            yield self._sum("site reports", request, self._detailed([head] * kinds).declare())
            yield from self._tests()
            columns = [column.name for column in study.table.columns] if study.table else []
            yield self._ask("data quality", DataQuality(columns), tuned=False, standardised=False)
        yield from self._fewshot()
        yield from self._audit()

    def _tests(self) -> Iterator[Exchange]:
        """Start, federated and, where the backbone reads texts, the classes' own: apart if it was tuned."""
        head, reads_text = self.model.head, describe(self.study.backbone, self.study.table).modality == "text"
        before = [head] * (2 if reads_text and not self.study.multilabel else 1)
        if self.model.backbone:
            yield self._ask("test of the start", self._detailed(before))
            yield self._ask("final test", self._detailed([head]))
        else:
            yield self._ask("final test", self._detailed([*before, head]))

    def _detailed(self, heads: Sequence[LinearHead]) -> Evaluation:
        return Evaluation(heads, detail=True, multilabel=self.study.multilabel)

    def _fewshot(self) -> Iterator[Exchange]:
        """Episodes at new sites are not counted: they are those sites' traffic."""
        wanted = self.study.fewshot
        if wanted is None:
            return
        yield self._ask("whitening", RidgeSums(n_classes=self.study.n_classes, dim=self.dim))
        if not wanted.new_sites:
            mean, square = np.zeros(self.dim, np.float32), np.zeros((self.dim, self.dim), np.float32)
            whitening = Whitening.from_arrays(
                {MEAN: mean, TRANSFORM: square, NORMALISE: np.ones(1, np.int64)}
            )
            settings = len(wanted.shots) + len(wanted.ways) - 1  # n_way and n_shot are on both curves
            episodes = EpisodeSums(method=wanted.methods[0], episodes=wanted.episodes, whitening=whitening)
            yield self._ask("few-shot episodes", episodes, times=len(wanted.methods) * settings)

    def _audit(self) -> Iterator[Exchange]:
        if self.policy is None:
            return
        seen = subject(self.study, self.model.head)
        head, positive = seen.head, seen.positive
        if self.study.door.private:
            yield self._ask("audit", private_audit_request(self.policy, head=head, positive=positive))
            return
        yield self._ask("edges of the audit", AuditEdges(head, positive))
        edges = np.arange(N_BINS - 1, dtype=np.float64)
        yield self._ask("audit", audit_request(self.policy, head=head, positive=positive, edges=edges))
        if self.study.backbone.align == "none" and not self.study.multilabel:
            yield self._ask("temperature of the service", Evaluation([head], SERVED_TEMPERATURES))
            yield self._ask("histograms of the service", Histograms(head))

    def _ask(
        self,
        what: str,
        statistic: Statistic[Any],
        *,
        times: int = 1,
        tuned: bool = True,
        standardised: bool = True,
    ) -> Exchange:
        config = {
            records.STATISTIC: statistic.name,
            records.SETTINGS: json.dumps(dict(statistic.settings())),
            records.SPLIT: "validation",
        }
        request = self._request(config, parameters=statistic.arrays(), tuned=tuned, standardised=standardised)
        declared = statistic.declare()
        if self.study.door.private:
            declared = noising.declared(declared, plan(self.study).multiplier(release_of(statistic.name)))
        return self._sum(what, request, declared, times=times)

    def _sum(self, what: str, request: int, declared: Mapping[str, Quantity], *, times: int = 1) -> Exchange:
        masked = masked_sum(request, declared, config=self._config_bytes(), sites=self.sites)
        return Exchange(what, times, plain_sum(request, declared), masked)

    def _config_bytes(self) -> int:
        return self._request({}, tuned=False, standardised=False)

    def _request(
        self,
        config: Mapping[str, Any],
        *,
        arrays: Arrays | None = None,
        parameters: Arrays | None = None,
        tuned: bool = True,
        standardised: bool = True,
    ) -> int:
        """Bytes of one message to a site."""
        run = self.study.study.name + STAMP
        every = {records.STUDY: self.study.to_json(), records.RUN: run, **config}
        content = RecordDict({records.CONFIG: ConfigRecord(every)})
        attached = {
            records.STANDARDISER: self._standardiser().arrays() if standardised else None,
            records.TUNED: self.model.backbone if tuned else None,
            records.PARAMETERS: parameters,
            records.ARRAYS: arrays,
        }
        for key, value in attached.items():
            if value:
                content[key] = records.to_record(value)
        return records.size_bytes(content)

    def _standardiser(self) -> Standardiser:
        zeros, aligned = np.zeros(self.dim), self.study.backbone.align == "coral"
        return Standardiser(
            zeros,
            zeros,
            centre=zeros if self.study.door.private else None,
            colour=np.zeros((self.dim, self.dim), np.float32) if aligned else None,
        )
