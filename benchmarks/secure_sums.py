"""The secure sum, leg by leg in one process: bytes, CPU seconds, exactness; run by benchmarks/privacy.py.

Every site has a keystore on disk and opens it anew for every leg, as separate processes would.
CPU seconds leave out waiting (for the disk, too). A site's seconds are the mean over sites, its
bytes the most any site sends.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foedus import records
from foedus.secure.collection import MaskedSum
from foedus.secure.coordinator import SumSession
from foedus.secure.keystore import Keystore
from foedus.secure.lanes import Lanes
from foedus.secure.roster import Roster
from foedus.secure.site import SiteSession
from foedus.statistic import Quantity

ARRAY = "head"
RESOLUTION = 2.0**-22
REACH = 16.0
"""20 sites x 16 / 2^-22 is below 2^31 steps: the array travels in 32 bits a value."""
BATCH = 16
"""Sums set up by one exchange of keys and shares, as server.masked has it."""
REQUEST = bytes(32)


@dataclass
class Bill:
    """What legs cost: CPU seconds and bytes sent by site, and the coordinator's CPU seconds."""

    site_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    up_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    coordinator_s: float = 0.0

    @contextmanager
    def site(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a site."""
        begun = time.process_time()
        yield
        self.site_s[name] += time.process_time() - begun

    @contextmanager
    def coordinator(self) -> Iterator[None]:
        """Charge what happens inside to the coordinator."""
        begun = time.process_time()
        yield
        self.coordinator_s += time.process_time() - begun

    @property
    def client_s(self) -> float:
        """Mean over sites."""
        return float(np.mean(list(self.site_s.values())))

    @property
    def up(self) -> int:
        """Most that a site sends."""
        return max(self.up_bytes.values())


@dataclass
class Sites:
    """Sites on disk and what each contributes."""

    folder: Path
    roster: Roster
    values: dict[str, NDArray[np.float32]]
    quantities: dict[str, Quantity]

    @classmethod
    def create(cls, folder: Path, *, n_sites: int, n_params: int) -> "Sites":
        """`n_sites` sites with normal values of deviation 1/2."""
        names = [f"site-{i:02}" for i in range(n_sites)]
        stores = {name: Keystore.create(folder / name) for name in names}
        roster = Roster.build(sites={name: store.public_key for name, store in stores.items()})
        for store in stores.values():
            store.pin(roster)
        rng = np.random.default_rng(0)
        values = {name: rng.normal(0, 0.5, n_params).astype(np.float32) for name in names}
        quantity = Quantity((n_params,), low=-REACH, high=REACH, resolution=RESOLUTION)
        return cls(folder, roster, values, {ARRAY: quantity})

    def open(self, name: str) -> SiteSession:
        """One leg's process."""
        return SiteSession(Keystore(self.folder / name))

    def session(self, number: int, *, sums: int) -> tuple[SumSession, Bill]:
        """Legs 1 and 2."""
        bill, session = Bill(), SumSession(self.roster, session=number, sums=sums)
        request, keys, shares = session.keys_request(), {}, {}
        for name in self.values:
            with bill.site(name):
                keys[name] = self.open(name).keys(request)
        with bill.coordinator():
            for text in keys.values():
                session.add_keys(text)
            request = session.shares_request()
        for name in self.values:
            with bill.site(name):
                shares[name] = self.open(name).shares(request)
            bill.up_bytes[name] = len(keys[name]) + len(shares[name])
        with bill.coordinator():
            for name, text in shares.items():
                session.add_shares(text, site=name)
        return session, bill

    def sum(
        self, session: SumSession, number: int, *, dropped: str = ""
    ) -> tuple[NDArray[np.float64], list[str], Bill]:
        """Legs 3 to 5: the total, whose it is, and the bill."""
        bill = Bill()
        masked = session.begin(number, self.quantities, request=REQUEST)
        for name in self.values:
            if name != dropped:
                self._mask(masked, name, bill)
        consents, replies = {}, {}
        with bill.coordinator():
            request = masked.consent_request()
        for name in masked.survivors:
            with bill.site(name):
                consents[name] = self.open(name).consent(request)
        with bill.coordinator():
            for name, text in consents.items():
                masked.add_consent(text, site=name)
            request = masked.unmask_request()
        for name in masked.consenters:
            with bill.site(name):
                replies[name] = self.open(name).unmask(request)
            bill.up_bytes[name] += len(consents[name]) + len(replies[name])
        with bill.coordinator():
            for name, text in replies.items():
                masked.add_unmask(text, site=name)
            total = np.asarray(masked.total()[ARRAY], np.float64)
        return total, masked.survivors, bill

    def _mask(self, masked: MaskedSum, name: str, bill: Bill) -> None:
        """Leg 3 of one site, with numpy's format of the lanes on both ends."""
        with bill.coordinator():
            request = masked.mask_request(name)
        with bill.site(name):
            arrays = {ARRAY: self.values[name]}
            text, lanes = self.open(name).mask(request, arrays, quantities=self.quantities, request=REQUEST)
            record = records.to_record({records.NARROW: lanes.narrow, records.WIDE: lanes.wide})
        bill.up_bytes[name] += len(text) + sum(len(array.data) for array in record.values())
        with bill.coordinator():
            found = records.from_record(record)
            narrow, wide = found[records.NARROW].astype("<u4"), found[records.WIDE].astype("<u8")
            masked.add(text, Lanes(narrow, wide), site=name)

    def errors(self, total: NDArray[np.float64], survivors: list[str]) -> dict[str, object]:
        """The total against the fixed-point sum (equal, to the bit) and the plain one."""
        plain = np.sum([self.values[name].astype(np.float64) for name in survivors], axis=0)
        steps = [np.rint(self.values[name].astype(np.float64) / RESOLUTION) for name in survivors]
        exact = np.sum(steps, axis=0) * RESOLUTION
        return {
            "is_the_fixed_point_sum": bool(np.array_equal(total, exact)),
            "max_error_of_plain_sum": float(f"{np.abs(total - plain).max():.3g}"),
        }


def measure(n_sites: int, n_params: int) -> dict[str, object]:
    """Cost of the secure sum of `n_params` float32 values over `n_sites` sites, alone and in a session of 16."""
    with tempfile.TemporaryDirectory() as scratch:
        sites = Sites.create(Path(scratch), n_sites=n_sites, n_params=n_params)
        alone, alone_setup = sites.session(1, sums=1)
        total, survivors, alone_bill = sites.sum(alone, 0)
        found: dict[str, object] = {"params": n_params, "sites": n_sites, **sites.errors(total, survivors)}
        session, setup = sites.session(2, sums=BATCH)
        _, _, first = sites.sum(session, 0)
        _, _, later = sites.sum(session, 1)
        rest, left, drop = sites.sum(session, 2, dropped="site-01")
        plain_bytes = 4 * n_params
        found["one_sum_alone"] = {
            "up_bytes": alone_setup.up + alone_bill.up,
            "over_float32": round((alone_setup.up + alone_bill.up) / plain_bytes, 4),
            "client_cpu_s": round(alone_setup.client_s + alone_bill.client_s, 4),
            "coordinator_cpu_s": round(alone_setup.coordinator_s + alone_bill.coordinator_s, 4),
        }
        spread = (setup.up + first.up + (BATCH - 1) * later.up) / BATCH
        client = (setup.client_s + first.client_s + (BATCH - 1) * later.client_s) / BATCH
        found["in_a_session_of_16"] = {
            "up_bytes": round(spread),
            "over_float32": round(spread / plain_bytes, 4),
            "client_cpu_s": round(client, 4),
            "client_cpu_s_without_keys_and_shares": round(later.client_s, 4),
            "client_cpu_s_of_keys_and_shares": round(setup.client_s, 4),
            "coordinator_cpu_s": round(setup.coordinator_s / BATCH + later.coordinator_s, 4),
        }
        found["one_site_dropped_after_sharing"] = {
            **sites.errors(rest, left),
            "client_cpu_s": round(drop.client_s, 4),
            "coordinator_cpu_s": round(drop.coordinator_s, 4),
        }
        return found
