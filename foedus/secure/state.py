"""What a site remembers of the session in progress: no more than the legs still to come need."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from foedus.secure.wire import (
    SHARE_BYTES,
    Bytes32,
    Message,
    Name,
    Names,
    SessionNumber,
    Statement,
    SumCount,
)

Secret = Annotated[bytes, Field(max_length=32)]


class Peer(Message):
    """A site that advertised: its channel key, and its pair keys of all sums end to end."""

    title: ClassVar[str] = "record of a peer"
    channel: Bytes32
    pairs: bytes


class Pending(Message):
    """The secrets of one sum this site has not answered yet.

    `seed` and `pair` are emptied once the masked contribution is made. The shares held are
    66 bytes each, in the order of the session's sharers.
    """

    title: ClassVar[str] = "record of a sum"
    seed: Secret
    pair: Secret
    seed_shares: bytes = b""
    pair_shares: bytes = b""


class Current(Message):
    """The sum this site has masked: the statement without and then with the survivors.

    `once` where the contribution is noised: what was asked is then summed over one set of sites only.
    """

    title: ClassVar[str] = "record of the sum in progress"
    statement: Statement
    survivors: Names = []
    once: bool = False


class State(Message):
    """A session at one site. `sums[k]` is None once sum k was unmasked here or abandoned."""

    title: ClassVar[str] = "record of the session in progress"
    session: SessionNumber
    count: SumCount
    stage: Literal["advertised", "shared", "open"] = "advertised"
    channel: Secret
    peers: dict[Name, Peer] = {}
    sharers: Names = []
    packages: Secret = b""
    sums: list[Pending | None]
    current: Current | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        held = SHARE_BYTES * {"advertised": 0, "shared": 1, "open": len(self.sharers)}[self.stage]
        shares = [s for p in self.sums if p is not None for s in (p.seed_shares, p.pair_shares)]
        keys = [peer.pairs for peer in self.peers.values()]
        number = 0 if self.current is None else self.current.statement.sum
        sound = (
            len(self.sums) == self.count > number
            and all(len(share) == held for share in shares)
            and all(len(key) == 32 * self.count for key in keys)
            and all(name in self.peers for name in self.sharers)
        )
        if not sound:
            raise ValueError("its parts do not fit together")
        return self

    def abandon_before(self, number: int) -> "State":
        """This state without the secrets of sums below `number`."""
        kept: list[Pending | None] = [None] * number
        return self.model_copy(update={"sums": kept + self.sums[number:], "current": None})

    def masked(self, number: int, current: Current) -> "State":
        """This state once sum `number` is masked: its own secrets and the sums before it are gone."""
        state = self.abandon_before(number)
        pending = state.sums[number]
        done = pending and pending.model_copy(update={"seed": b"", "pair": b""})
        sums = [*state.sums[:number], done, *state.sums[number + 1 :]]
        return state.model_copy(update={"sums": sums, "current": current})

    @property
    def finished(self) -> bool:
        """Whether no sum is left."""
        return all(pending is None for pending in self.sums)


def share_at(shares: bytes, index: int) -> bytes:
    """The 66 bytes of one sharer."""
    return shares[index * SHARE_BYTES : (index + 1) * SHARE_BYTES]
