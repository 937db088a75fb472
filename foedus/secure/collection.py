"""One sum as the coordinator collects it: contributions are added as they arrive and not kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from foedus.errors import SecureSumError
from foedus.secure import masks, shamir
from foedus.secure.agreement import check_consent, check_enough, names_digest
from foedus.secure.lanes import Lanes, Layout
from foedus.secure.roster import Roster
from foedus.secure.wire import (
    Advertisement,
    Consent,
    ConsentRequest,
    MaskReply,
    MaskRequest,
    Statement,
    UnmaskReply,
    UnmaskRequest,
)
from foedus.statistic import Arrays


class MaskedSum:
    """Legs 3 to 5 of one sum; made by `SumSession.begin`.

    The requests are texts to send; each `add_*` takes one site's reply. A reply that is refused
    (SecureSumError) counts for nothing, and its site counts as dropped in that leg.

    Attributes:
        survivors: Sites whose contributions were added, sorted; final once consent is asked for.
        unsound: The site without whose shares the total was unmasked, since they were wrong; None if all fit.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        advertisements: Mapping[str, Advertisement],
        packages: Mapping[str, Mapping[str, bytes]],
        answered: set[str],
        statement: Statement,
        layout: Layout,
    ) -> None:
        self.survivors: list[str] = []
        self.unsound: str | None = None
        self._roster = roster
        self._advertisements = advertisements
        self._packages = packages
        self._answered = answered
        self._statement = statement
        self._layout = layout
        self._lanes = layout.empty()
        self._closed = False
        self._consents: dict[str, Consent] = {}
        self._replies: dict[str, UnmaskReply] = {}
        self._unmasked = False

    def mask_request(self, site: str) -> str:
        """Leg 3, for `site`, with the shares addressed to it until it has answered once."""
        self._check_sharer(site)
        known = site in self._answered
        packages = {} if known else {n: p[site] for n, p in self._packages.items() if n != site}
        return MaskRequest(session=self._session, sum=self._number, packages=packages).encode()

    def add(self, text: str, lanes: Lanes, *, site: str) -> None:
        """Add a masked contribution; its vectors are not kept.

        Args:
            text: The site's MaskReply.
            lanes: What came with it.
            site: Whose reply it is.
        """
        reply = MaskReply.decode(text)
        self._check_reply(reply, site)
        if self._closed:
            raise SecureSumError(f"the contribution of site '{site}' arrived after the survivors were named")
        if site in self.survivors:
            raise SecureSumError(f"site '{site}' has contributed to sum {self._number} already")
        self._check_lane(lanes.narrow, self._lanes.narrow, declared=reply.narrow, site=site)
        self._check_lane(lanes.wide, self._lanes.wide, declared=reply.wide, site=site)
        self._roster.verify(reply, site=site)
        if lanes.digest() != reply.lanes:
            raise SecureSumError(f"the masked contribution of site '{site}' was altered on its way")
        np.add(self._lanes.narrow, lanes.narrow, out=self._lanes.narrow)
        np.add(self._lanes.wide, lanes.wide, out=self._lanes.wide)
        self.survivors = sorted([*self.survivors, site])
        self._answered.add(site)

    def consent_request(self) -> str:
        """Leg 4, for every survivor. No contribution is taken after this.

        Raises:
            SecureSumError: If too few sites contributed.
        """
        check_enough(len(self.survivors), self._roster, what="contributed")
        self._closed = True
        survivors = names_digest("survivors", self.survivors)
        self._statement = self._statement.model_copy(update={"survivors": survivors})
        request = ConsentRequest(session=self._session, sum=self._number, survivors=self.survivors)
        return request.encode()

    def add_consent(self, text: str, *, site: str) -> None:
        """Take a survivor's consent, if it is to the statement everyone else signs."""
        consent = Consent.decode(text)
        self._check_survivor(site, consent.site)
        check_consent(consent, statement=self._statement, roster=self._roster)
        self._consents[site] = consent

    def unmask_request(self) -> str:
        """Leg 5, for every site in `consenters`.

        Raises:
            SecureSumError: If too few sites consented.
        """
        check_enough(len(self._consents), self._roster, what="consented")
        consents = [self._consents[site] for site in self.consenters]
        return UnmaskRequest(session=self._session, sum=self._number, consents=consents).encode()

    @property
    def consenters(self) -> list[str]:
        """Survivors whose consent was taken, sorted: only they can unmask."""
        return sorted(self._consents)

    def add_unmask(self, text: str, *, site: str) -> None:
        """Take a survivor's shares."""
        reply = UnmaskReply.decode(text)
        self._check_reply(reply, site)
        self._check_survivor(site, reply.site)
        if set(reply.seeds) != set(self.survivors) or set(reply.pairs) != set(self._dropped):
            raise SecureSumError(f"site '{site}' sent shares of other sites than it was asked for")
        self._replies[site] = reply

    def total(self) -> Arrays:
        """The sum of the survivors' contributions, as `foedus.sums.ExactSum` would have it.

        Raises:
            SecureSumError: If too few sites unmasked, a secret rebuilt from shares is not the one
                its owner advertised (whichever one of the sites that unmasked is left out, where one can
                be spared), or the total is out of the declared range.
        """
        if not self._unmasked:
            check_enough(len(self._replies), self._roster, what="unmasked")
            masks.apply(self._lanes, masks.opposite(self._sound_seeds()))
            self._unmasked = True
        return self._layout.decode(self._lanes, contributions=len(self.survivors))

    def _sound_seeds(self) -> list[masks.Seed]:
        """The masks left on the total, from shares that fit: one site may have sent wrong ones."""
        known, enough = sorted(self._replies), self._roster.threshold
        try:
            return list(self._seeds(known[:enough]))
        except SecureSumError:
            for left_out in known[:enough] if len(known) > enough else []:
                with suppress(SecureSumError):
                    found = list(self._seeds([name for name in known if name != left_out][:enough]))
                    self.unsound = left_out
                    return found
            raise

    def _seeds(self, sites: Sequence[str]) -> Iterator[masks.Seed]:
        """Every mask left on the total: the survivors' own, and theirs with the sites that dropped.

        Args:
            sites: Whose shares are used, as many as the threshold.
        """
        session, number = self._session, self._number
        weights = shamir.weights([self._roster.positions[site] for site in sites])
        for name in self.survivors:
            seed = self._rebuild(name, [self._replies[site].seeds[name] for site in sites], weights)
            check = masks.seed_check(seed, session=session, number=number, site=name)
            self._match(check, self._advertisements[name].checks[number], name, "self-mask seed")
            yield masks.self_seed(seed, session=session, number=number, site=name)
        for name in self._dropped:
            private = self._rebuild(name, [self._replies[site].pairs[name] for site in sites], weights)
            self._match(masks.public_key(private), self._advertisements[name].pairs[number], name, "pair key")
            for other in self.survivors:
                shared = masks.agree(private, self._advertisements[other].pairs[number], site=other)
                asked = self._statement.asked
                yield masks.pair_seed(
                    shared, session=session, number=number, site=other, other=name, asked=asked
                )

    def _rebuild(self, name: str, shares: list[bytes], weights: list[int]) -> bytes:
        try:
            return shamir.combine(shares, weights)
        except SecureSumError as error:
            raise SecureSumError(
                f"the shares of the secrets of site '{name}' are not sound: {error}"
            ) from None

    def _match(self, found: bytes, advertised: bytes, name: str, what: str) -> None:
        if found != advertised:
            raise SecureSumError(
                f"the {what} of site '{name}' rebuilt from shares is not the one it advertised; "
                f"'{name}' or one of the sites that unmasked sent wrong shares"
            )

    def _check_lane(
        self, found: NDArray[np.generic], wanted: NDArray[np.generic], *, declared: int, site: str
    ) -> None:
        if found.dtype != wanted.dtype or found.shape != wanted.shape or declared != wanted.size:
            raise SecureSumError(
                f"a lane of site '{site}' has {found.size} words of type {found.dtype} and names {declared}; "
                f"{wanted.size} words of type {wanted.dtype} are expected"
            )

    @property
    def _session(self) -> int:
        return self._statement.session

    @property
    def _number(self) -> int:
        return self._statement.sum

    @property
    def _dropped(self) -> list[str]:
        """Sharers that did not survive this sum."""
        return sorted(set(self._packages) - set(self.survivors))

    def _check_sharer(self, site: str) -> None:
        if site not in self._packages:
            raise SecureSumError(
                f"site '{site}' shared no secrets in session {self._session}; it sits this one out"
            )

    def _check_reply(self, reply: MaskReply | UnmaskReply, site: str) -> None:
        self._check_sharer(site)
        if (reply.session, reply.sum, reply.site) != (self._session, self._number, site):
            raise SecureSumError(
                f"the {reply.title} of site '{site}' names site '{reply.site}', session {reply.session}, "
                f"sum {reply.sum}; session {self._session}, sum {self._number} was asked for"
            )

    def _check_survivor(self, site: str, named: str) -> None:
        if not self._closed or site not in self.survivors or named != site:
            raise SecureSumError(
                f"site '{site}' answers for '{named}', or did not contribute to sum {self._number}"
            )
