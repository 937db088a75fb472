"""Dealing a site's secrets to the others, and taking in theirs (Bonawitz et al. 2017, figure 4, round 1)."""

import hashlib
from collections.abc import Mapping

from foedus.errors import SecureSumError
from foedus.secure import masks, shamir
from foedus.secure.agreement import check_enough
from foedus.secure.packages import Link, seal, unseal
from foedus.secure.roster import Roster
from foedus.secure.state import Peer, Pending, State, share_at
from foedus.secure.wire import Statement


def deal(
    state: State, peers: Mapping[str, Peer], *, roster: Roster, site: str
) -> tuple[State, dict[str, bytes]]:
    """The state with this site's own shares and its peers, and a package for every other peer."""
    dealt = [_split(pending, roster) for pending in state.sums if pending is not None]
    packages = {}
    for name, peer in peers.items():
        if name != site:
            at = roster.positions[name] - 1
            content = b"".join(seeds[at] for seeds, _ in dealt) + b"".join(pairs[at] for _, pairs in dealt)
            link = Link(state.session, roster.digest, sender=site, receiver=name)
            packages[name] = seal(content, link, private=state.channel, public=peer.channel)
    own = roster.positions[site] - 1
    sums = [
        pending and pending.model_copy(update={"seed_shares": seeds[own], "pair_shares": pairs[own]})
        for pending, (seeds, pairs) in zip(state.sums, dealt, strict=True)
    ]
    return state.model_copy(update={"stage": "shared", "peers": dict(peers), "sums": sums}), packages


def take_in(state: State, packages: Mapping[str, bytes], *, roster: Roster, site: str) -> State:
    """The state with everyone's shares; the sites they came from are the session's sharers for good.

    The channel key is forgotten: nothing else is ever encrypted under it.

    Raises:
        SecureSumError: If a package is from a site that did not advertise or cannot be opened, or
            there are too few.
    """
    opened = {}
    for name, package in packages.items():
        if name == site or name not in state.peers:
            raise SecureSumError(f"shares of site '{name}' arrived, which did not advertise to this site")
        link = Link(state.session, roster.digest, sender=name, receiver=site)
        public = state.peers[name].channel
        opened[name] = unseal(package, link, private=state.channel, public=public, sums=state.count)
    check_enough(len(opened) + 1, roster, what="shared their secrets")
    sharers = sorted([*opened, site])
    sums = [pending and _hold(pending, k, opened, sharers) for k, pending in enumerate(state.sums)]
    update = {
        "stage": "open",
        "channel": b"",
        "sharers": sharers,
        "packages": packages_digest(packages),
        "sums": sums,
    }
    return state.model_copy(update=update)


def packages_digest(packages: Mapping[str, bytes]) -> bytes:
    """32 bytes that stand for the packages a site received."""
    found = hashlib.sha256()
    for name, package in sorted(packages.items()):
        found.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(package).digest())
    return found.digest()


def seeds_of(
    state: State, number: int, pending: Pending, *, site: str, statement: Statement
) -> list[masks.Seed]:
    """The masks of this site's contribution to one sum: its own, and one with every other sharer, as to this statement.

    Raises:
        SecureSumError: If a sharer's pair key is degenerate.
    """
    session = state.session
    seeds = [masks.self_seed(pending.seed, session=session, number=number, site=site)]
    for name in state.sharers:
        if name != site:
            public = state.peers[name].pairs[32 * number : 32 * (number + 1)]
            shared = masks.agree(pending.pair, public, site=name)
            seeds.append(
                masks.pair_seed(
                    shared, session=session, number=number, site=site, other=name, asked=statement.asked
                )
            )
    return seeds


def _split(pending: Pending, roster: Roster) -> tuple[list[bytes], list[bytes]]:
    size = len(roster)
    seeds = shamir.split(pending.seed, threshold=roster.threshold, shares=size)
    return seeds, shamir.split(pending.pair, threshold=roster.threshold, shares=size)


def _hold(
    pending: Pending, number: int, opened: Mapping[str, tuple[bytes, bytes]], sharers: list[str]
) -> Pending:
    """`pending` with every sharer's shares of this sum, in the sharers' order; the site has its own already."""

    def held(own: bytes, half: int) -> bytes:
        return b"".join(share_at(opened[n][half], number) if n in opened else own for n in sharers)

    update = {"seed_shares": held(pending.seed_shares, 0), "pair_shares": held(pending.pair_shares, 1)}
    return pending.model_copy(update=update)
