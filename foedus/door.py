"""The one door out of a site. A security officer reads this module to know what can leave.

Every message a site sends is made by `leave`, and by nothing else. In order it
permits (the site's policy and the study's door mode), validates (shape, range, finite),
and sends. In this version the only mode is "open": sums travel as they are, over
whatever transport encrypts them, and a study may use it only where the site's own policy
lists it. The modes that clip, add noise, charge a ledger and mask are refused, never
replaced by something weaker.

What can leave:
    additive statistics, checked against what they declare;
    words about the site's software: its name, its version, the backbone's digest;
    the site's own figures, only where its policy has release_site_metrics = true;
    a refusal: one fixed sentence, or a DoorError, neither of which holds data or paths.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from foedus import records, sums
from foedus.errors import BackboneError, ConfigError, DataError, DoorError, FoedusError
from foedus.site import PolicySection
from foedus.statistic import Arrays, Quantity
from foedus.study import Study

log = logging.getLogger(__name__)

AVAILABLE_MODES = ("open",)
SITE_REFUSED = 2
"""Flower's error code for an app that could not answer."""

_PUBLIC: dict[type[FoedusError], str] = {
    DataError: "the site's data cannot be read or do not fit the study; its own log says what to fix",
    ConfigError: "the request or the site's configuration is not valid; the site's own log says what to fix",
    BackboneError: "the site cannot provide the study's backbone; its own log says what to fix",
}
_UNEXPECTED = "the site met an unexpected error; its own log holds the details"


@dataclass(frozen=True)
class Release:
    """What a site wants to send.

    Attributes:
        arrays: The contribution.
        quantities: What each array declares; the door checks one against the other.
        numbers: Weights and losses that belong to the contribution.
        words: The site's name, version, backbone digest or own figures.
        individual: True for figures of this site alone.
    """

    arrays: Arrays = field(default_factory=dict)
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    individual: bool = False


def check_mode(mode: str) -> None:
    """Refuse a door mode this version cannot keep.

    Raises:
        DoorError: If the mode is not available.
    """
    if mode not in AVAILABLE_MODES:
        raise DoorError(
            f'door.mode is "{mode}", which this version cannot keep; it carries plain sums only. '
            'Set mode = "open" in the study, and allow it in the policy of every site, or do not run it.'
        )


def check_policy(study: Study, policy: PolicySection, *, individual: bool = False) -> None:
    """Refuse what the site's own policy does not allow.

    Raises:
        DoorError: Naming the rule.
    """
    check_mode(study.door.mode)
    if study.door.mode not in policy.doors:
        allowed = ", ".join(policy.doors) or "none"
        raise DoorError(f'the site\'s policy allows doors: {allowed}; the study asks for "{study.door.mode}"')
    if policy.studies and study.study.name not in policy.studies:
        raise DoorError(f"the site's policy does not list the study '{study.study.name}'")
    if individual and not policy.release_site_metrics:
        raise DoorError("the site's policy keeps its own figures (release_site_metrics = false)")


def leave(
    message: Message,
    measure: Callable[[], Release],
    *,
    permit: Callable[[], tuple[Study, PolicySection]],
) -> Message:
    """The reply to `message`: what `measure` returns, or a refusal that tells nothing about the data.

    Args:
        message: The coordinator's request.
        measure: Does the local work; runs only if the site's policy permits the study.
        permit: Reads the study that asks and the site's policy.
    """
    try:
        study, policy = permit()
        check_policy(study, policy)
        release = measure()
        check_policy(study, policy, individual=release.individual)
        sums.check(release.arrays, release.quantities)
        return Message(_content(release), reply_to=message)
    except DoorError as error:
        return _refusal(message, str(error))
    except FoedusError as error:
        log.error("refused a request: %s", error)
        return _refusal(message, _PUBLIC.get(type(error), _UNEXPECTED))
    except Exception:  # the last barrier: an error's text may hold data, so only a fixed sentence leaves
        log.exception("unexpected error while answering a request")
        return _refusal(message, _UNEXPECTED)


def _content(release: Release) -> RecordDict:
    content = RecordDict()
    if release.arrays:
        content[records.ARRAYS] = records.to_record(release.arrays)
    if release.numbers:
        content[records.METRICS] = MetricRecord(dict(release.numbers))
    if release.words:
        content[records.CONFIG] = ConfigRecord(dict(release.words))
    return content


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(code=SITE_REFUSED, reason=reason), reply_to=message)
