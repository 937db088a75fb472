"""The coordinator's side of the secure sum: it carries messages, adds, and learns the total only."""

from collections.abc import Mapping

from foedus.errors import SecureSumError
from foedus.secure.agreement import check_advertisement, check_enough, names_digest
from foedus.secure.collection import MaskedSum
from foedus.secure.lanes import Layout
from foedus.secure.packages import package_bytes
from foedus.secure.roster import Roster
from foedus.secure.wire import Advertisement, KeysRequest, SharesReply, SharesRequest, Statement
from foedus.statistic import Quantity


class SumSession:
    """Legs 1 and 2 of a session of `sums` independent sums; `begin` starts each of them, in order.

    A reply that is refused (SecureSumError) counts for nothing: the session goes on without its
    site while enough remain.

    Args:
        roster: The roster every site has pinned.
        session: A number higher than any these sites have seen, e.g. microseconds since 1970.
        sums: How many sums to set up, 1..64.

    Raises:
        SecureSumError: If a number is out of range.
    """

    def __init__(self, roster: Roster, *, session: int, sums: int) -> None:
        self.roster = roster
        self.session = session
        self.sums = sums
        self._request = KeysRequest.build(
            session=session, roster=roster.digest, sums=sums, threshold=roster.threshold
        )
        self._advertisements: dict[str, Advertisement] = {}
        self._packages: dict[str, dict[str, bytes]] = {}
        self._answered: set[str] = set()
        self._advertised = False
        self._next = 0

    def keys_request(self) -> str:
        """Leg 1, for every site."""
        return self._request.encode()

    def add_keys(self, text: str) -> str:
        """Take a site's advertisement; returns the site's name, which its signature proves."""
        found = Advertisement.decode(text)
        check_advertisement(found, roster=self.roster, session=self.session, sums=self.sums)
        if self._advertised:
            raise SecureSumError(
                f"the advertisement of site '{found.site}' arrived after the others were passed on"
            )
        if found.site in self._advertisements:
            raise SecureSumError(f"site '{found.site}' has advertised already")
        self._advertisements[found.site] = found
        return found.site

    def shares_request(self) -> str:
        """Leg 2, for every site that advertised. No advertisement is taken after this.

        Raises:
            SecureSumError: If too few sites advertised.
        """
        check_enough(len(self._advertisements), self.roster, what="sent keys")
        self._advertised = True
        advertisements = [found for _, found in sorted(self._advertisements.items())]
        return SharesRequest(session=self.session, advertisements=advertisements).encode()

    def add_shares(self, text: str, *, site: str) -> None:
        """Take a site's packages for the others."""
        reply = SharesReply.decode(text)
        if not self._advertised or site not in self._advertisements:
            raise SecureSumError(f"site '{site}' sent shares but was not asked for any")
        if (reply.session, reply.site) != (self.session, site):
            raise SecureSumError(f"site '{site}' sent shares of '{reply.site}' in session {reply.session}")
        if self._next:
            raise SecureSumError(f"the shares of site '{site}' arrived after the first sum began")
        if set(reply.packages) != set(self._advertisements) - {site}:
            raise SecureSumError(f"site '{site}' did not send shares for exactly the sites that advertised")
        if any(len(package) != package_bytes(self.sums) for package in reply.packages.values()):
            raise SecureSumError(f"the shares of site '{site}' are not those of {self.sums} sums")
        self._packages[site] = reply.packages

    @property
    def sharers(self) -> list[str]:
        """Sites whose shares were taken, sorted: they can take part in the sums."""
        return sorted(self._packages)

    def begin(self, number: int, quantities: Mapping[str, Quantity], *, request: bytes) -> MaskedSum:
        """Start sum `number`; the sums before it are over.

        Args:
            number: 0..sums-1, higher than the last.
            quantities: What every site declares.
            request: 32 bytes that stand for everything that is asked; sites sign it.

        Raises:
            SecureSumError: If too few sites shared, the number was passed, or the declared arrays
                cannot be summed exactly.
        """
        check_enough(len(self._packages), self.roster, what="shared their secrets")
        if not self._next <= number < self.sums:
            raise SecureSumError(f"sum {number} was passed or is not one of this session's {self.sums}")
        layout = Layout(quantities, len(self.roster))
        statement = Statement.build(
            session=self.session,
            sum=number,
            roster=self.roster.digest,
            sharers=names_digest("sharers", self.sharers),
            survivors=names_digest("survivors", []),
            request=request,
            layout=layout.digest(),
            narrow=layout.narrow,
            wide=layout.wide,
        )
        self._next = number + 1
        return MaskedSum(
            roster=self.roster,
            advertisements=self._advertisements,
            packages=self._packages,
            answered=self._answered,
            statement=statement,
            layout=layout,
        )
