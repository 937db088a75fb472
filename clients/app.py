"""A site's ClientApp: message, local work, the door, reply.

Every handler only says what to measure; `foedus.door.leave` alone decides whether it leaves.
The site's folder comes from its own node configuration, never from a message.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from clients.membership import SITE_KEY
from clients.private_tuning import private_gradient
from clients.report import write_report
from clients.rounds import Round, own_tensors, train_here
from clients.statistics import FEATURE_SUMS, as_read, build, common_classes
from clients.workplace import Part, Workplace, open_workplace
from fairness.commitments import commit
from fairness.counts import AuditCounts
from fairness.private import PrivateAudit
from foedus import __version__, gradient, records, updates
from foedus.backbones import Standardiser
from foedus.budget import release_of, round_name
from foedus.data.quality import DataQuality
from foedus.door import Premises, Release, check_behind, check_budget, check_size, leave, session
from foedus.errors import ConfigError, DataError, DoorError
from foedus.head import LinearHead
from foedus.model import Model
from foedus.site import find_sites, load_site
from foedus.statistic import Arrays
from foedus.study import NAME, Study, study_from_json
from foedus.traffic import Asked, Traffic

log = logging.getLogger(__name__)
app = ClientApp()

SITES_VARIABLE = "FOEDUS_SITES"
"""Simulation with many processes: the folder of all sites; each takes its partition's."""
OWN_FIGURES = frozenset({"episodes"})
"""Statistics that a site may answer for itself alone, where its policy releases its own figures."""
COMMITTED = frozenset({AuditCounts.name, PrivateAudit.name})
"""Statistics whose contribution a site can be held to: the audit's."""
TRAINING = frozenset({"train", "validation"})
"""Splits in which examples count by their group, where the study balances groups."""
PARTS: dict[str, Part] = {"train": "train", "validation": "validation", "test": "test", "all": "all"}


@app.query("enlist")
def enlist(message: Message, context: Context) -> Message:
    """Whether this site can take part: its name, its version, its backbone's digest."""

    def measure(site: Workplace) -> Release:
        if site.name not in site.study.newcomers:
            check_budget(message, Premises(site.study, site.config, site.folder))
        words = {records.SITE: site.name, records.VERSION: __version__, records.BACKBONE: site.spec.digest}
        if site.study.door.masked and site.name not in site.study.newcomers:
            words[records.ROSTER] = session(site.folder).roster.encode()
        return Release(words=words)

    return _answer(message, context, measure)


@app.query("statistic")
def statistic(message: Message, context: Context) -> Message:
    """One additive statistic over one split of this site's examples."""

    def measure(site: Workplace) -> Release:
        config = _config(message)
        parameters = _arrays(message, records.PARAMETERS)
        wanted = build(str(config[records.STATISTIC]), json.loads(str(config[records.SETTINGS])), parameters)
        check_size(wanted.declare(), site.config.policy)
        split = str(config[records.SPLIT])
        if split not in PARTS:
            raise ConfigError("the request received", [f"split is '{split}'; valid: {', '.join(PARTS)}"])
        standardiser = _standardiser(message)
        if wanted.name == DataQuality.name:
            examples = site.census()
        else:
            examples = site.examples(PARTS[split], standardiser=standardiser, tuned=_tuned(message, site))
        examples = as_read(wanted.name, examples, site.study)
        if wanted.name in FEATURE_SUMS and site.config.policy.min_class_count > 1:
            examples = common_classes(examples, site.config.policy.min_class_count)
        if split in TRAINING:
            examples = site.balanced(examples, str(config.get(records.BALANCE, "")))
        alone = wanted.name in OWN_FIGURES and _is_alone(message, site.study)
        name = release_of(wanted.name) if site.study.door.private else ""
        commit = partial(_commit, message, site) if wanted.name in COMMITTED else None
        return Release(wanted.measure(examples), wanted.declare(), unmasked=alone, name=name, commit=commit)

    return _answer(message, context, measure)


@app.query("secure")
def secure(message: Message, context: Context) -> Message:
    """A leg of the secure sum that holds no contribution; the masked ones come with what they answer."""

    def measure(site: Workplace) -> Release:
        config = message.content.config_records[records.SECURE]
        leg, text = str(config[records.LEG]), str(config[records.TEXT])
        answers = session(site.folder)
        legs = {
            "keys": answers.keys,
            "shares": answers.shares,
            "consent": answers.consent,
            "unmask": answers.unmask,
        }
        if leg not in legs:
            raise ConfigError("the request received", [f"leg is '{leg}'; valid: {', '.join(legs)}"])
        if leg == "consent":
            check_behind(text, site.config.policy)
        return Release(words={records.TEXT: legs[leg](text)})

    return _answer(message, context, measure)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """One round of gradient descent from the shared model on this site's training examples."""

    def measure(site: Workplace) -> Release:
        config = _config(message)
        standardiser = _needed(_standardiser(message))
        shared = Model.from_arrays(_arrays(message, records.ARRAYS))
        number = int(config[records.SERVER_ROUND])  # type: ignore[arg-type]
        if site.study.door.private:
            clip = site.study.door.clip_norm
            arrays = private_gradient(site, shared, standardiser, clip_norm=clip)
            return Release(arrays, gradient.quantities(shared, clip_norm=clip), name=round_name(number))
        n = len(site.data.rows("train"))
        if not n:
            raise DataError(f"site '{site.name}' has no training example; see foedus site check.")
        n_total, n_sites = int(config[records.N_TRAIN]), int(config[records.N_SITES])  # type: ignore[arg-type]
        mu = float(config.get(records.PROXIMAL_MU, 0.0))  # type: ignore[arg-type]
        balance = str(config.get(records.BALANCE, ""))
        trained, loss = train_here(site, Round(number, _run(message), shared, standardiser, mu, balance))
        arrays = updates.contribution(shared, trained, n=n, n_total=max(n, n_total), loss=loss)
        return Release(arrays, updates.quantities(shared, n_sites=n_sites, n_total=n_total))

    return _answer(message, context, measure)


@app.query("report")
def report(message: Message, context: Context) -> Message:
    """Write this site's own report.

    The counts of its local and personal heads leave as a contribution to a sum; its own
    figures leave only if its policy releases them.
    """

    def measure(site: Workplace) -> Release:
        shared = LinearHead.from_arrays(_arrays(message, records.ARRAYS))
        if shared.weight.shape != (site.study.n_classes, site.spec.dim):
            raise ConfigError("the request received", ["the head does not fit the study"])
        model = Model(shared, _arrays(message, records.TUNED))
        standardiser = _needed(_standardiser(message))
        figures, evaluation, counts = write_report(site, model, standardiser, run=_run(message))
        if site.study.door.private:
            return Release()
        released = site.config.policy.release_site_metrics
        words = {records.FIGURES: json.dumps(figures)} if released else {}
        return Release(arrays=counts, quantities=evaluation.declare(), words=words, individual=released)

    return _answer(message, context, measure)


@app.query("traffic")
def traffic(message: Message, context: Context) -> Message:
    """What went through the study's model in a service here, if this site lets sums of it leave."""

    def measure(site: Workplace) -> Release:
        service = site.config.service
        if service is None or site.study.door.private:
            why = "names no [service]" if service is None else "keeps traffic out of private studies"
            raise DoorError(f"the site {why}: nothing of its traffic leaves")
        asked = Asked.from_json(str(_config(message)[records.SETTINGS]))
        wanted = Traffic(asked, site.study, dim=site.spec.dim)
        labels = site.folder / service.labels if service.labels else None
        arrays = wanted.measure(site.folder / service.journal, labels=labels, block=service.min_records)
        return Release(arrays, wanted.declare())

    return _answer(message, context, measure)


def _commit(message: Message, site: Workplace, arrays: Arrays) -> dict[str, str]:
    """The words of this site's commitment to what it adds to an audit."""
    request, run = records.digest(message), _run(message)
    return {
        records.COMMITMENT: commit(site.folder, arrays, site=site.name, run=run, request=request).encode()
    }


def _answer(message: Message, context: Context, measure: Callable[[Workplace], Release]) -> Message:
    """Go through the door with what `measure` finds at this site's workplace."""

    def study_json() -> str:
        return str(_config(message).get(records.STUDY, ""))

    def permit() -> Premises:
        folder = site_folder(context)
        return Premises(_parse(study_json()), load_site(folder), folder)

    def work() -> Release:
        return measure(open_workplace(site_folder(context), study_json()))

    return leave(message, work, permit=permit)


_parse = lru_cache(maxsize=16)(study_from_json)


def site_folder(context: Context) -> Path:
    """This site's folder, from its node configuration or, in a simulation, from its partition.

    Raises:
        ConfigError: If neither is given.
    """
    if SITE_KEY in context.node_config:
        return Path(str(context.node_config[SITE_KEY]))
    if SITES_VARIABLE in os.environ and "partition-id" in context.node_config:
        return find_sites(Path(os.environ[SITES_VARIABLE]))[int(context.node_config["partition-id"])]
    raise ConfigError("the node configuration", [f"{SITE_KEY} is missing; set it to the site's folder"])


def _run(message: Message) -> str:
    """The run's id, which names folders here.

    Raises:
        ConfigError: If it could be anything but a name.
    """
    run = str(_config(message)[records.RUN])
    if re.fullmatch(NAME, run) is None:
        raise ConfigError("the request received", ["run is not a valid id"])
    return run


def _tuned(message: Message, site: Workplace) -> Arrays:
    """The backbone's tensors: what came, with this site's own in their place."""
    return (
        _arrays(message, records.TUNED) | own_tensors(site, _run(message))
        if site.study.backbone.tuned
        else {}
    )


def _needed(standardiser: Standardiser | None) -> Standardiser:
    if standardiser is None:
        raise ConfigError("the request received", ["the standardiser is missing"])
    return standardiser


def _is_alone(message: Message, study: Study) -> bool:
    """Whether a study that sums under masks asks this site without the others."""
    return study.door.masked and records.SECURE not in message.content.config_records


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records.get(records.CONFIG, ConfigRecord())


def _arrays(message: Message, key: str) -> Arrays:
    return records.from_record(message.content[key]) if key in message.content else {}


def _standardiser(message: Message) -> Standardiser | None:
    arrays = _arrays(message, records.STANDARDISER)
    return Standardiser.from_arrays(arrays) if arrays else None
