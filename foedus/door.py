"""The one door out of a site. A security officer reads this module to know what can leave.

Every message a site sends is made by `leave`, and by nothing else. In order it permits (the
site's policy and the study's door mode), validates (shape, range, finite), charges the site's
ledger, adds noise, masks, and sends. The modes:

    secure+ddp    noise, charged to the site's ledger; then masks, so that a contribution meets the
                  others only as a sum. Each site adds a share of the noise (foedus.noising).
    local-dp      each site adds all the noise itself and trusts nobody; no masks.
    secure-only   masks, no noise: the coordinator learns sums only (foedus.secure;
                  docs/security/secure-sum.md). No differential privacy.
    open          contributions leave as they are, over whatever transport encrypts them.

A mode is used only where the site's own policy lists it. What can leave:
    additive statistics, checked against what they declare;
    the legs of the secure sum: public keys, encrypted shares, consents, shares of masks;
    words about the site's software: its name, its version, the backbone's digest, the roster;
    a commitment to its counts for an audit: a salted sha256, which says nothing about them;
    the site's own figures, only where its policy has release_site_metrics = true, and never
    in a private study;
    a refusal: one fixed sentence, or a DoorError or PrivacyError, none of which holds data or paths.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import prod
from pathlib import Path

from flwr.app import ConfigRecord, Error, Message, RecordDict

from foedus import noising, records, sums
from foedus.budget import plan
from foedus.errors import (
    BackboneError,
    ConfigError,
    DataError,
    DoorError,
    FewShotError,
    FoedusError,
    PrivacyError,
)
from foedus.noising import Purse
from foedus.privacy.ledger import Ledger
from foedus.secure.keystore import Keystore
from foedus.secure.site import SiteSession
from foedus.secure.wire import ConsentRequest
from foedus.site import PolicySection, SiteConfig
from foedus.statistic import Arrays, Quantity
from foedus.study import NAME, Study

log = logging.getLogger(__name__)

KEYS_FOLDER, LEDGER_FOLDER, KEPT_FOLDER = ".foedus/keys", ".foedus/ledger", ".foedus/released"
"""Below the site's folder: its keystore, its privacy ledger, and the noised contributions it made."""
COLLUDERS = 1
"""Sites whose share of the noise is not counted on: one may know its own, or add none."""
SITE_REFUSED = 100
"""Error code of a refusal; none of Flower's own, whose text could hold anything."""

_PUBLIC: dict[type[FoedusError], str] = {
    DataError: "the site's data cannot be read or do not fit the study; its own log says what to fix",
    FewShotError: "the site has too few classes or examples for the episodes asked for",
    ConfigError: "the request or the site's configuration is not valid; its own log says what to fix",
    BackboneError: "the site cannot provide the study's backbone; its own log says what to fix",
}
_UNEXPECTED = "the site met an unexpected error; its own log holds the details"
_NOT_AS_DECLARED = (
    "the site's contribution is not what the question declares (its arrays, their shapes, finite, within range); "
    "its own log says what was found"
)


@dataclass(frozen=True)
class Premises:
    """Who asks, and what this site allows.

    Attributes:
        study: The study that asks.
        site: The site's own configuration.
        folder: The site's folder; what the door has to remember lies below it.
    """

    study: Study
    site: SiteConfig
    folder: Path


@dataclass(frozen=True)
class Release:
    """What a site wants to send.

    Attributes:
        arrays: The contribution.
        quantities: What each array declares; the door checks one against the other.
        words: The site's name, version, backbone digest or own figures.
        individual: True if it holds figures of this site alone, which need the policy's consent.
        unmasked: True if the arrays themselves are such figures, so that no secure sum hides them.
        name: Which release of a private study's plan this is (foedus.budget).
        commit: Keeps the arrays at the site, as they go into the sum, and gives the words of a
            commitment to them; it must hide them.
    """

    arrays: Arrays = field(default_factory=dict)
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    individual: bool = False
    unmasked: bool = False
    name: str = ""
    commit: Callable[[Arrays], Mapping[str, str]] | None = None


def check_policy(
    study: Study, policy: PolicySection, *, individual: bool = False, now: datetime | None = None
) -> None:
    """Refuse what the site's own policy does not allow.

    Args:
        study: The study that asks.
        policy: The site's own.
        individual: Whether figures of this site alone would leave.
        now: Local time; the clock's when not given.

    Raises:
        DoorError: Naming the rule.
    """
    if study.door.mode not in policy.doors:
        allowed = ", ".join(policy.doors) or "none"
        raise DoorError(f'the site\'s policy allows doors: {allowed}; the study asks for "{study.door.mode}"')
    if policy.studies and study.study.name not in policy.studies:
        raise DoorError(f"the site's policy does not list the study '{study.study.name}'")
    if study.backbone.tune not in policy.tune:
        allowed = ", ".join(policy.tune)
        raise DoorError(
            f'the site\'s policy allows tune: {allowed}; the study asks for "{study.backbone.tune}"'
        )
    if study.federation.min_sites < policy.min_sites:
        raise DoorError(
            f"the site's policy wants at least {policy.min_sites} sites behind every sum; the study's min_sites is "
            f"{study.federation.min_sites}"
        )
    if not policy.at_work(now or datetime.now()):
        raise DoorError(f"the site's policy allows work at {policy.hours} only, by the site's own clock")
    if individual and study.door.private:
        raise DoorError("a private study releases no site's own figures; each site keeps its own report")
    if individual and not policy.release_site_metrics:
        raise DoorError("the site's policy keeps its own figures (release_site_metrics = false)")


def check_size(quantities: Mapping[str, Quantity], policy: PolicySection) -> None:
    """Refuse a question whose answer could not leave, before it fills this machine's memory.

    Raises:
        DoorError: With both sizes.
    """
    size_mb = sum(prod(quantity.shape) for quantity in quantities.values()) * 8 / 1e6
    if size_mb > policy.max_answer_mb:
        raise DoorError(
            f"the question asks for {size_mb:.0f} MB of numbers; the site's policy allows {policy.max_answer_mb} "
            "(max_answer_mb)"
        )


def check_behind(text: str, policy: PolicySection) -> None:
    """Refuse consent to a sum over fewer sites than the policy wants, whatever the study says of itself.

    Raises:
        DoorError: With both numbers; SecureSumError if `text` is no request for consent.
    """
    found = len(ConsentRequest.decode(text).survivors)
    if found < policy.min_sites:
        raise DoorError(
            f"the sum is over {found} sites; the site's policy wants at least {policy.min_sites} behind every sum"
        )


def check_budget(message: Message, premises: Premises) -> None:
    """Refuse a private study that this site's ledger could not carry to its end, before it spends anything.

    Raises:
        PrivacyError: Naming what is spent, what is asked and the cap.
    """
    if premises.study.door.private:
        budget = plan(premises.study)
        releases = {name: budget.event(name) for name in budget.shares}
        _ledger(premises).require(premises.study.study.name, _run(message), releases)


def leave(
    message: Message,
    measure: Callable[[], Release],
    *,
    permit: Callable[[], Premises],
) -> Message:
    """The reply to `message`: what `measure` returns, or a refusal that tells nothing about the data.

    Args:
        message: The coordinator's request.
        measure: Does the local work; runs only if the site's policy permits the study.
        permit: Reads the study that asks and the site's policy.
    """
    try:
        premises = permit()
        check_policy(premises.study, premises.site.policy)
        release = measure()
        check_policy(premises.study, premises.site.policy, individual=release.individual or release.unmasked)
        _check_declared(release, premises.study)
        if premises.study.door.private and release.arrays:
            release = _noised(message, release, premises)
            sums.check(release.arrays, release.quantities)
        _check_enough(release, premises.study)
        if release.commit is not None:
            release = replace(release, words={**release.words, **release.commit(release.arrays)})
        return Message(_content(message, release, premises), reply_to=message)
    except (DoorError, PrivacyError) as error:
        return _refusal(message, str(error))
    except FoedusError as error:
        log.error("refused a request: %s", error)
        return _refusal(message, _PUBLIC.get(type(error), _UNEXPECTED))
    except Exception:  # the last barrier: an error's text may hold data, so only a fixed sentence leaves
        log.exception("unexpected error while answering a request")
        return _refusal(message, _UNEXPECTED)


def _check_declared(release: Release, study: Study) -> None:
    """Refuse a contribution that is not what was declared, before anything is charged for it.

    What was found would tell about the data, past noise and masks: it stays in the site's own log.
    """
    private = study.door.private and release.arrays
    expected = noising.before_noise(release.quantities) if private else release.quantities
    try:
        sums.check(release.arrays, expected)
    except DoorError as error:
        log.error("refused a request: %s", error)
        raise DoorError(_NOT_AS_DECLARED) from None


def _check_enough(release: Release, study: Study) -> None:
    """Where the coordinator sees this site's part by itself, refuse one that stands for too few examples.

    Under masks the part is not seen, and nobody but the coordinator knows the total's count.
    """
    fewest = sums.lacking(release.arrays, release.quantities)
    if fewest and (release.unmasked or not study.door.masked):
        raise DoorError(
            f"the site's contribution stands for fewer than {fewest} examples and would be seen by itself; it stays "
            "here: add examples, or use a door that masks"
        )


def _content(message: Message, release: Release, premises: Premises) -> RecordDict:
    content = RecordDict()
    if release.words:
        content[records.CONFIG] = ConfigRecord(dict(release.words))
    if not release.arrays:
        return content
    if premises.study.door.masked and not release.unmasked:
        _mask(message, release, premises, content)
    else:
        content[records.ARRAYS] = records.to_record(sums.to_steps(release.arrays, release.quantities))
    return content


def _noised(message: Message, release: Release, premises: Premises) -> Release:
    """The release as a private study may have it: charged to the ledger, with this site's share of the noise."""
    study = premises.study
    event = plan(study).event(release.name)
    asked, honest = records.digest(message), 1
    if study.door.masked:  # a share of the noise is for one roster: in a smaller one it would be too little
        roster = session(premises.folder).roster
        asked, honest = hashlib.sha256(asked + roster.digest).digest(), roster.threshold - COLLUDERS
    purse = Purse(_ledger(premises), premises.folder / KEPT_FOLDER / _run(message))
    arrays = purse.release(
        release.name,
        asked,
        release.arrays,
        release.quantities,
        study=study.study.name,
        event=event,
        honest=honest,
    )
    return replace(
        release, arrays=arrays, quantities=noising.declared(release.quantities, event.noise_multiplier)
    )


def _ledger(premises: Premises) -> Ledger:
    site = premises.site
    return Ledger.open(
        premises.folder / LEDGER_FOLDER,
        data=site.data.identity,
        unit=site.data.unit or "record",
        cap_epsilon=site.policy.epsilon_cap,
        delta=site.policy.delta,  # a study that names a larger one would look cheaper than it is
    )


def _run(message: Message) -> str:
    run = str(message.content.config_records.get(records.CONFIG, ConfigRecord()).get(records.RUN, ""))
    if re.fullmatch(NAME, run) is None:
        raise DoorError("the request names no valid run")
    return run


def _mask(message: Message, release: Release, premises: Premises, content: RecordDict) -> None:
    """The contribution under masks, bound to everything that was asked."""
    if records.SECURE not in message.content.config_records:
        raise DoorError(
            f'the study\'s door is "{premises.study.door.mode}", but the request is not part of a secure sum; '
            "nothing leaves unmasked"
        )
    text = str(message.content.config_records[records.SECURE].get(records.TEXT, ""))
    reply, lanes = session(premises.folder).mask(
        text,
        release.arrays,
        quantities=release.quantities,
        request=records.digest(message),
        once=premises.study.door.private,
    )
    content[records.SECURE] = ConfigRecord({records.TEXT: reply})
    content[records.LANES] = records.to_record({records.NARROW: lanes.narrow, records.WIDE: lanes.wide})


def session(folder: Path) -> SiteSession:
    """This site's side of the secure sum.

    Raises:
        SecureSumError: If the site has no keystore, or no roster is pinned in it.
    """
    return SiteSession(Keystore(folder / KEYS_FOLDER))


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(code=SITE_REFUSED, reason=reason), reply_to=message)
