"""What sites and coordinator must agree on, checked alike at both ends (Bonawitz et al. 2017, figure 4)."""

from collections.abc import Sequence

from foedus.errors import SecureSumError
from foedus.secure.roster import Roster
from foedus.secure.wire import Advertisement, Consent, Statement, digest

_DIFFERENCES = {
    "session": "speaks of another session",
    "sum": "speaks of another sum",
    "roster": "has another roster",
    "sharers": "received shares from other sites",
    "survivors": "was shown another survivor list",
    "request": "answered another request",
    "layout": "declares other quantities",
    "narrow": "declares other quantities",
    "wide": "declares other quantities",
}


def check_advertisement(advertisement: Advertisement, *, roster: Roster, session: int, sums: int) -> None:
    """Refuse an advertisement that is not of this session, or not signed by the site it names.

    Raises:
        SecureSumError: Naming the site.
    """
    roster.verify(advertisement, site=advertisement.site)
    site = f"the advertisement of site '{advertisement.site}'"
    if advertisement.session != session:
        raise SecureSumError(f"{site} is for session {advertisement.session}, not {session}; it is a replay")
    if advertisement.roster != roster.digest:
        raise SecureSumError(f"{site} speaks of another roster; compare the roster's fingerprint")
    if (advertisement.sums, advertisement.threshold) != (sums, roster.threshold):
        raise SecureSumError(
            f"{site} is for {advertisement.sums} sums with a threshold of {advertisement.threshold}; "
            f"this session has {sums} with a threshold of {roster.threshold}"
        )


def check_enough(found: int, roster: Roster, *, what: str) -> None:
    """Stop when fewer sites are left than the threshold.

    Raises:
        SecureSumError: With both numbers.
    """
    if found < roster.threshold:
        raise SecureSumError(
            f"{found} of {len(roster)} sites {what}; a secure sum needs {roster.threshold}. "
            "Nothing was revealed; begin again when enough sites answer"
        )


def names_digest(label: str, names: Sequence[str]) -> bytes:
    """32 bytes that stand for a set of sites."""
    return digest(label, sorted(names))


def check_consents(
    consents: Sequence[Consent], *, statement: Statement, survivors: Sequence[str], roster: Roster
) -> None:
    """Refuse to unmask unless enough survivors signed the identical statement.

    Raises:
        SecureSumError: If one is repeated, from a site that did not survive, not validly signed or
            of another statement (naming the site and the difference), or too few remain.
    """
    signed = set()
    for consent in consents:
        if consent.site in signed:
            raise SecureSumError(f"the consent of site '{consent.site}' is there twice")
        if consent.site not in survivors:
            raise SecureSumError(f"site '{consent.site}' consents to a sum it is not a survivor of")
        check_consent(consent, statement=statement, roster=roster)
        signed.add(consent.site)
    check_enough(len(signed), roster, what="consented")


def check_consent(consent: Consent, *, statement: Statement, roster: Roster) -> None:
    """Refuse a consent that is not validly signed, or not to `statement`.

    Raises:
        SecureSumError: Naming the site and the difference.
    """
    roster.verify(consent, site=consent.site)
    mine, theirs = (dict(found) for found in (statement, consent.statement))
    for field, difference in _DIFFERENCES.items():
        if mine[field] != theirs[field]:
            raise SecureSumError(f"sites do not agree: '{consent.site}' {difference}; nothing is unmasked")
