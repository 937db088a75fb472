"""A federation of sites with keystores on disk; every leg opens its keystore anew, as a new process would."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from foedus.secure.collection import MaskedSum
from foedus.secure.coordinator import SumSession
from foedus.secure.keystore import Keystore
from foedus.secure.lanes import Lanes
from foedus.secure.roster import Roster
from foedus.secure.site import SiteSession
from foedus.statistic import Arrays, Quantity, count
from foedus.sums import ExactSum

QUANTITIES: dict[str, Quantity] = {
    "head": Quantity((3, 4), low=-8, high=8, resolution=2.0**-20),
    "gram": Quantity((2, 2), low=-(2.0**20), high=2.0**20),
    "cases": count(3),
    "flags": Quantity((5,), "count", 0, 1, 1.0),
    "loss": Quantity((), low=-100, high=100, resolution=2.0**-16),
    "none": Quantity((0, 4), low=-1, high=1),
}
"""Both lanes, both kinds, a scalar, an array without entries and negative values."""


def draw(seed: int) -> Arrays:
    """One site's contribution to QUANTITIES."""
    rng = np.random.default_rng(seed)
    return {
        "head": rng.uniform(-8, 8, (3, 4)).astype(np.float32),
        "gram": rng.uniform(-1e6, 1e6, (2, 2)),
        "cases": rng.integers(0, 10**9, 3),
        "flags": rng.integers(0, 2, 5),
        "loss": np.array(rng.uniform(-100, 100)),
        "none": np.zeros((0, 4)),
    }


@dataclass
class Federation:
    """Sites and what they contribute; the methods play an honest coordinator, leg by leg."""

    folder: Path
    roster: Roster
    quantities: ClassVar[dict[str, Quantity]] = QUANTITIES
    request: ClassVar[bytes] = bytes(range(32))
    """Stands for what is asked."""

    @property
    def names(self) -> list[str]:
        return sorted(self.roster.sites)

    def site(self, name: str) -> SiteSession:
        return SiteSession(Keystore(self.folder / name))

    def arrays(self, name: str) -> Arrays:
        return draw(self.names.index(name))

    def session_request(self, number: int) -> str:
        return SumSession(self.roster, session=number, sums=1).keys_request()

    def session(
        self, *, number: int = 1, sums: int = 1, absent: Collection[str] = (), silent: Collection[str] = ()
    ) -> SumSession:
        """Legs 1 and 2: `absent` sites never advertise, `silent` ones advertise and do not share."""
        session = SumSession(self.roster, session=number, sums=sums)
        advertised = [name for name in self.names if name not in absent]
        for name in advertised:
            session.add_keys(self.site(name).keys(session.keys_request()))
        request = session.shares_request()
        for name in advertised:
            if name not in silent:
                session.add_shares(self.site(name).shares(request), site=name)
        return session

    def mask(self, masked: MaskedSum, name: str, request: bytes | None = None) -> tuple[str, Lanes]:
        asked = masked.mask_request(name)
        given = self.request if request is None else request
        return self.site(name).mask(asked, self.arrays(name), quantities=QUANTITIES, request=given)

    def contribute(self, session: SumSession, number: int = 0, *, without: Collection[str] = ()) -> MaskedSum:
        """Leg 3."""
        masked = session.begin(number, QUANTITIES, request=self.request)
        for name in session.sharers:
            if name not in without:
                text, lanes = self.mask(masked, name)
                masked.add(text, lanes, site=name)
        return masked

    def agree(self, masked: MaskedSum, *, without: Collection[str] = ()) -> None:
        """Leg 4."""
        request = masked.consent_request()
        for name in masked.survivors:
            if name not in without:
                masked.add_consent(self.site(name).consent(request), site=name)

    def unmask(self, masked: MaskedSum, *, without: Collection[str] = ()) -> None:
        """Leg 5."""
        request = masked.unmask_request()
        for name in masked.consenters:
            if name not in without:
                masked.add_unmask(self.site(name).unmask(request), site=name)

    def run(self, *, number: int = 1) -> Arrays:
        """A session of one sum in which nothing goes wrong."""
        masked = self.contribute(self.session(number=number))
        self.agree(masked)
        self.unmask(masked)
        return masked.total()

    def check(self, total: Arrays, survivors: Collection[str]) -> None:
        """The total is ExactSum's over the survivors, to the bit."""
        exact = ExactSum(QUANTITIES)
        for name in survivors:
            exact.add(self.arrays(name))
        same(total, exact.total())


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """What is tested is order and content; waiting for the disk at each of some ten thousand writes is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def federate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Federation]:
    """Makes a federation of n sites."""

    def make(n: int) -> Federation:
        folder = tmp_path_factory.mktemp(f"sites-{n}")
        stores = {f"site-{i:02}": Keystore.create(folder / f"site-{i:02}") for i in range(n)}
        roster = Roster.build(sites={name: store.public_key for name, store in stores.items()})
        for store in stores.values():
            store.pin(roster)
        return Federation(folder, roster)

    return make


@pytest.fixture
def five(federate: Callable[[int], Federation]) -> Federation:
    """Five sites, of which four make a sum."""
    return federate(5)
