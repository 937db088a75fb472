"""A site's side of the secure sum: five answers, each given once (Bonawitz et al. 2017, figure 4).

One session sets up K independent sums with one exchange of keys and shares. Every sum has its own
pair key and self-mask seed, and they must not be shared between sums: unmasking a sum gives the
coordinator the pair keys of the sites that dropped and the seeds of those that did not, and with
these it would unmask whatever else they hide.

Every answer reads the keystore, checks, writes the keystore, and only then returns.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from foedus.errors import SecureSumError
from foedus.secure import masks
from foedus.secure.agreement import check_advertisement, check_consents, check_enough, names_digest
from foedus.secure.dealing import deal, packages_digest, seeds_of, take_in
from foedus.secure.keystore import Keystore
from foedus.secure.lanes import Lanes, Layout
from foedus.secure.state import Current, Peer, Pending, State, share_at
from foedus.secure.wire import (
    Advertisement,
    Consent,
    ConsentRequest,
    KeysRequest,
    MaskReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    Statement,
    UnmaskReply,
    UnmaskRequest,
)
from foedus.statistic import Arrays, Quantity


class SiteSession:
    """What a site answers. It holds no secret itself: make it anew in any process, for any leg.

    The methods take the text of a request and return the text of the reply. They raise
    SecureSumError, with one sentence that may leave the site, on anything that is not as it must
    be; after that the sum (or, in legs 1 and 2, the session) cannot go on at this site.
    """

    def __init__(self, store: Keystore) -> None:
        self._store = store
        self.roster = store.roster()
        self.name = store.name()

    def keys(self, text: str) -> str:
        """Leg 1: fresh keys, signed. Ends any session before it."""
        asked = KeysRequest.decode(text)
        if asked.roster != self.roster.digest:
            raise SecureSumError(
                f"the coordinator has another roster than site '{self.name}'; compare its fingerprint "
                f"with {self.roster.fingerprint()}"
            )
        if asked.threshold != self.roster.threshold:
            raise SecureSumError(
                f"the coordinator asks for a threshold of {asked.threshold}; "
                f"{len(self.roster)} sites have {self.roster.threshold}"
            )
        with self._alone():
            self._store.advance(asked.session)
            sums = [Pending(seed=secrets.token_bytes(32), pair=_fresh()) for _ in range(asked.sums)]
            channel = _fresh()
            self._store.save(State(session=asked.session, count=asked.sums, channel=channel, sums=list(sums)))
        return self._advertise(asked.session, channel, sums).encode()

    def shares(self, text: str) -> str:
        """Leg 2: this site's secrets in shares, encrypted for every other site that advertised."""
        asked = SharesRequest.decode(text)
        with self._answering(asked.session) as state:
            if state.stage != "advertised":
                raise SecureSumError(
                    f"site '{self.name}' has dealt its shares of session {state.session} already"
                )
            peers = self._peers(asked.advertisements, state)
            state, packages = deal(state, peers, roster=self.roster, site=self.name)
            self._store.save(state)
        return SharesReply(session=asked.session, site=self.name, packages=packages).encode()

    def mask(
        self,
        text: str,
        arrays: Arrays,
        *,
        quantities: Mapping[str, Quantity],
        request: bytes,
        once: bool = False,
    ) -> tuple[str, Lanes]:
        """Leg 3: this site's contribution under masks. Abandons every sum before it.

        Args:
            text: A MaskRequest; its packages are opened the first time, and later must be the same or none.
            arrays: The contribution, as `quantities` declare it.
            quantities: Decide the lanes; every site must declare the same.
            request: 32 bytes that stand for everything that was asked; every site must see the same.
            once: Whether the answer to this request may be part of sums over one set of sites only. Noise that
                is shared out hides a site in the total, not in the difference of two totals.

        Raises:
            DoorError: Also if the contribution is not what was declared.
        """
        asked = MaskRequest.decode(text)
        layout = Layout(quantities, len(self.roster))
        lanes = layout.encode(arrays)
        with self._answering(asked.session) as state:
            state = self._opened(state, asked.packages)
            pending = state.sums[asked.sum] if asked.sum < state.count else None
            if pending is None or not pending.seed:
                raise SecureSumError(
                    f"site '{self.name}' has answered or passed sum {asked.sum}; ask for the next"
                )
            statement = self._statement(state, asked.sum, layout, request)
            seeds = seeds_of(state, asked.sum, pending, site=self.name, statement=statement)
            current = Current(statement=statement, once=once)
            state = state.masked(asked.sum, current)
            self._store.save(state)
        masks.apply(lanes, seeds)
        narrow, wide = layout.narrow, layout.wide
        draft = MaskReply(
            session=asked.session,
            sum=asked.sum,
            site=self.name,
            narrow=narrow,
            wide=wide,
            lanes=lanes.digest(),
            signature=bytes(64),
        )
        return self._store.sign(draft).encode(), lanes

    def consent(self, text: str) -> str:
        """Leg 4: this site's signature under who survived and what was asked. Given once a sum."""
        asked = ConsentRequest.decode(text)
        with self._answering(asked.session) as state:
            current = self._current(state, asked.sum)
            if current.survivors:
                raise SecureSumError(f"site '{self.name}' has consented to sum {asked.sum} already")
            self._check_survivors(asked.survivors, state)
            survivors = names_digest("survivors", asked.survivors)
            if current.once:
                self._store.check_summed(current.statement.request, survivors)
            statement = current.statement.model_copy(update={"survivors": survivors})
            agreed = current.model_copy(update={"statement": statement, "survivors": asked.survivors})
            self._store.save(state.model_copy(update={"current": agreed}))
        draft = Consent(site=self.name, statement=statement, signature=bytes(64))
        return self._store.sign(draft).encode()

    def unmask(self, text: str) -> str:
        """Leg 5: a seed share of every survivor, a pair-key share of every other sharer. Given once a sum.

        Never both for one site: survivors and the others are disjoint, and the shares are
        erased before the answer leaves.
        """
        asked = UnmaskRequest.decode(text)
        with self._answering(asked.session) as state:
            current = self._current(state, asked.sum)
            pending = state.sums[asked.sum]
            if not current.survivors or pending is None:
                raise SecureSumError(
                    f"site '{self.name}' has not consented to sum {asked.sum}; ask for consent first"
                )
            check_consents(
                asked.consents, statement=current.statement, survivors=current.survivors, roster=self.roster
            )
            seeds, pairs = {}, {}
            for index, name in enumerate(state.sharers):
                if name in current.survivors:
                    seeds[name] = share_at(pending.seed_shares, index)
                else:
                    pairs[name] = share_at(pending.pair_shares, index)
            if current.once:
                self._store.note_summed(current.statement.request, current.statement.survivors)
            self._store.save(state.abandon_before(asked.sum + 1))
        reply = UnmaskReply(session=asked.session, sum=asked.sum, site=self.name, seeds=seeds, pairs=pairs)
        return reply.encode()

    def abandon(self) -> None:
        """Forget the session in progress, secrets and all."""
        with self._store.locked():
            self._store.save(None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._store.locked():
            if self._store.roster().digest != self.roster.digest:
                raise SecureSumError(
                    f"the roster pinned at site '{self.name}' was changed; begin a new session"
                )
            yield

    @contextmanager
    def _answering(self, session: int) -> Iterator[State]:
        with self._alone():
            state = self._store.load()
            if state is None or state.session != session:
                raise SecureSumError(
                    f"site '{self.name}' has no session {session} in progress: it is finished, was abandoned "
                    "or never began; begin a new one"
                )
            yield state

    def _advertise(self, session: int, channel: bytes, sums: Sequence[Pending]) -> Advertisement:
        checks = [
            masks.seed_check(pending.seed, session=session, number=k, site=self.name)
            for k, pending in enumerate(sums)
        ]
        draft = Advertisement(
            site=self.name,
            session=session,
            roster=self.roster.digest,
            sums=len(sums),
            threshold=self.roster.threshold,
            channel=masks.public_key(channel),
            pairs=[masks.public_key(pending.pair) for pending in sums],
            checks=checks,
            signature=bytes(64),
        )
        return self._store.sign(draft)

    def _peers(self, advertisements: Sequence[Advertisement], state: State) -> dict[str, Peer]:
        peers: dict[str, Peer] = {}
        for found in advertisements:
            check_advertisement(found, roster=self.roster, session=state.session, sums=state.count)
            if found.site in peers:
                raise SecureSumError(f"the advertisement of site '{found.site}' is there twice")
            peers[found.site] = Peer(channel=found.channel, pairs=b"".join(found.pairs))
        check_enough(len(peers), self.roster, what="sent keys")
        if self.name not in peers:
            raise SecureSumError(f"the advertisement of site '{self.name}' itself is missing")
        return peers

    def _opened(self, state: State, packages: Mapping[str, bytes]) -> State:
        if state.stage == "advertised":
            raise SecureSumError(f"site '{self.name}' has not dealt its shares; ask for shares first")
        if state.stage == "shared":
            return take_in(state, packages, roster=self.roster, site=self.name)
        if packages and packages_digest(packages) != state.packages:
            raise SecureSumError(
                f"site '{self.name}' received other shares before; they are fixed for the session"
            )
        return state

    def _statement(self, state: State, number: int, layout: Layout, request: bytes) -> Statement:
        return Statement.build(
            session=state.session,
            sum=number,
            roster=self.roster.digest,
            sharers=names_digest("sharers", state.sharers),
            survivors=names_digest("survivors", []),
            request=request,
            layout=layout.digest(),
            narrow=layout.narrow,
            wide=layout.wide,
        )

    def _current(self, state: State, number: int) -> Current:
        current = state.current
        if current is None or current.statement.sum != number:
            raise SecureSumError(
                f"sum {number} is not in progress at site '{self.name}': it was not masked, is unmasked already, "
                "or was passed; nothing more is said about it"
            )
        return current

    def _check_survivors(self, survivors: Sequence[str], state: State) -> None:
        if list(survivors) != sorted(set(survivors)):
            raise SecureSumError("the survivor list is not sorted, or names a site twice")
        check_enough(len(survivors), self.roster, what="survived")
        if self.name not in survivors:
            raise SecureSumError(
                f"the survivor list leaves out site '{self.name}', which was asked to consent to it"
            )
        strangers = sorted(set(survivors) - set(state.sharers))
        if strangers:
            raise SecureSumError(f"the survivor list names '{strangers[0]}', which shared no secrets")


def _fresh() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()
