"""The whole protocol: exact totals, sites that drop at any leg, restarts, batches, cost."""

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foedus.errors import SecureSumError
from foedus.secure.coordinator import SumSession
from foedus.secure.lanes import Lanes, Layout
from foedus.statistic import Quantity

Federate = Callable[[int], Any]
LEGS = ("keys", "shares", "mask", "consent", "unmask")
WORDS = {
    "keys": "sent keys",
    "shares": "shared their secrets",
    "mask": "contributed",
    "consent": "consented",
    "unmask": "unmasked",
}


def run(sites: Any, drops: dict[str, list[str]], *, number: int = 1) -> list[str]:
    """One sum in which the named sites stop answering at the named legs; returns the survivors."""
    gone: list[str] = []
    lost = {leg: list(gone := [*gone, *drops.get(leg, [])]) for leg in LEGS}
    session = sites.session(number=number, absent=lost["keys"], silent=lost["shares"])
    masked = sites.contribute(session, without=lost["mask"])
    sites.agree(masked, without=lost["consent"])
    sites.unmask(masked, without=lost["unmask"])
    sites.check(masked.total(), masked.survivors)
    return list(masked.survivors)


@pytest.mark.parametrize("n", range(3, 21))
def test_a_sum_survives_drops_at_every_leg_while_enough_remain(federate: Federate, n: int) -> None:
    sites = federate(n)
    spare = sites.names[:: max(n // 6, 1)][: n - sites.roster.threshold]
    drops: dict[str, list[str]] = {}
    for i, name in enumerate(spare):
        drops.setdefault(LEGS[(i + n) % 5], []).append(name)
    survivors = run(sites, drops)
    early = [name for leg in LEGS[:3] for name in drops.get(leg, [])]
    assert survivors == [name for name in sites.names if name not in early]


@pytest.mark.parametrize(
    "n", [pytest.param(n, marks=pytest.mark.slow if n > 7 else ()) for n in range(3, 21)]
)
def test_all_that_can_be_spared_may_drop_at_any_one_leg(federate: Federate, n: int) -> None:
    """At three sites none can be spared: the sum is of all."""
    sites = federate(n)
    spare = sites.names[1 : 1 + n - sites.roster.threshold]
    for number, leg in enumerate(LEGS, start=1):
        survivors = run(sites, {leg: spare}, number=number)
        gone = spare if leg in LEGS[:3] else []
        assert survivors == [name for name in sites.names if name not in gone]


@pytest.mark.parametrize("n", range(3, 21))
def test_a_sum_stops_kindly_when_too_few_remain(federate: Federate, n: int) -> None:
    sites = federate(n)
    leg, needed = LEGS[n % 5], sites.roster.threshold
    reason = f"{needed - 1} of {n} sites {WORDS[leg]}; a secure sum needs {needed}"
    with pytest.raises(SecureSumError, match=reason):
        run(sites, {leg: sites.names[: n - needed + 1]})


@pytest.mark.parametrize("leg", LEGS)
def test_each_leg_of_five_sites_can_lose_one_and_not_two(five: Any, leg: str) -> None:
    run(five, {leg: ["site-03"]}, number=1)
    with pytest.raises(SecureSumError, match=f"3 of 5 sites {WORDS[leg]}; a secure sum needs 4"):
        run(five, {leg: ["site-00", "site-03"]}, number=2)
    assert run(five, {}, number=3) == five.names, "what went wrong before does not matter now"


def test_the_order_of_arrival_does_not_matter(five: Any) -> None:
    session = five.session()
    masked = session.begin(0, five.quantities, request=five.request)
    answers = {name: five.mask(masked, name) for name in five.names}
    for name in ("site-04", "site-01", "site-00", "site-03", "site-02"):
        masked.add(answers[name][0], answers[name][1], site=name)
    five.agree(masked)
    five.unmask(masked)
    five.check(masked.total(), five.names)


def test_a_site_that_missed_one_sum_of_a_batch_takes_part_in_the_next(five: Any) -> None:
    session = five.session(sums=4)
    absent = {0: ["site-01"], 1: ["site-02"], 2: [], 3: ["site-01"]}
    for number, without in absent.items():
        masked = five.contribute(session, number, without=without)
        five.agree(masked)
        five.unmask(masked)
        assert masked.survivors == [name for name in five.names if name not in without]
        five.check(masked.total(), masked.survivors)


def test_a_sum_that_failed_does_not_stop_the_next_of_its_batch(five: Any) -> None:
    session = five.session(sums=2)
    failed = five.contribute(session, 0)
    five.agree(failed)
    five.unmask(failed, without=["site-00", "site-01"])
    with pytest.raises(SecureSumError, match="3 of 5 sites unmasked"):
        failed.total()
    masked = five.contribute(session, 1)
    five.agree(masked)
    five.unmask(masked)
    five.check(masked.total(), five.names)


def test_quantities_may_differ_from_sum_to_sum(five: Any) -> None:
    session = five.session(sums=2)
    for number, size in enumerate((7, 2)):
        quantities = {"x": Quantity((size,), low=-1, high=1)}
        masked = session.begin(number, quantities, request=five.request)
        for name in five.names:
            asked = masked.mask_request(name)
            site = five.site(name)
            text, lanes = site.mask(
                asked, {"x": np.full(size, 0.5)}, quantities=quantities, request=five.request
            )
            masked.add(text, lanes, site=name)
        five.agree(masked)
        five.unmask(masked)
        assert masked.total()["x"].tolist() == [2.5] * size


def test_what_leaves_a_site_looks_like_noise_and_never_repeats(five: Any) -> None:
    """All contributions are zero; chi-square of the bytes, 255 degrees of freedom, 8 deviations."""
    quantities = {
        "x": Quantity((2**15,), low=-1, high=1, resolution=2.0**-20),
        "y": Quantity((2**14,), low=-1, high=1, resolution=2.0**-40),
    }
    zeros = {"x": np.zeros(2**15), "y": np.zeros(2**14)}
    session = five.session(sums=2)
    sent = []
    for number in range(2):
        masked = session.begin(number, quantities, request=five.request)
        for name in five.names:
            asked = masked.mask_request(name)
            _, lanes = five.site(name).mask(asked, zeros, quantities=quantities, request=five.request)
            sent += [lanes.narrow.tobytes(), lanes.wide.tobytes()]
    assert len(set(sent)) == len(sent)
    for found in (*sent, b"".join(sent)):
        seen = np.bincount(np.frombuffer(found, np.uint8), minlength=256)
        expected = len(found) / 256
        assert abs(((seen - expected) ** 2 / expected).sum() - 255) < 8 * 22.6


def test_the_coordinator_keeps_no_single_contribution(five: Any) -> None:
    session = five.session()
    masked = session.begin(0, five.quantities, request=five.request)
    for name in five.names:
        text, lanes = five.mask(masked, name)
        masked.add(text, lanes, site=name)
        lanes.narrow.fill(0)
        lanes.wide.fill(0)
    five.agree(masked)
    five.unmask(masked)
    five.check(masked.total(), five.names)


def test_the_cost_at_twenty_sites_stays_in_its_budget(federate: Federate) -> None:
    """One site's CPU seconds for a sum of a million values, and its upload next to plain float32."""
    sites = federate(20)
    for number, (size, overhead) in enumerate([(100_000, 1.05), (1_000_000, 1.01)], 1):
        quantities = {"x": Quantity((size,), low=-8, high=8, resolution=2.0**-20)}
        zeros = {"x": np.zeros(size)}
        assert Layout(quantities, 20).wide == 0
        spent, sent = 0.0, 0

        def timed(name: str, leg: str, text: str, **options: Any) -> Any:
            nonlocal spent, sent
            site = sites.site(name)
            began = time.process_time()
            reply = getattr(site, leg)(text, **options)
            if name == "site-07":
                spent += time.process_time() - began
                sent += len(reply) if isinstance(reply, str) else len(reply[0]) + reply[1].size_bytes
            return reply

        session = SumSession(sites.roster, session=number, sums=1)
        for name in sites.names:
            session.add_keys(timed(name, "keys", session.keys_request()))
        for name in sites.names:
            session.add_shares(timed(name, "shares", session.shares_request()), site=name)
        masked = session.begin(0, quantities, request=sites.request)
        options = {"arrays": zeros, "quantities": quantities, "request": sites.request}
        for name in sites.names:
            text, lanes = timed(name, "mask", masked.mask_request(name), **options)
            masked.add(text, lanes, site=name)
        for name in sites.names:
            masked.add_consent(timed(name, "consent", masked.consent_request()), site=name)
        for name in sites.names:
            masked.add_unmask(timed(name, "unmask", masked.unmask_request()), site=name)
        assert not masked.total()["x"].any()
        assert spent < 0.5
        assert sent < overhead * 4 * size


LEG = """
import pathlib, sys
from foedus.secure.keystore import Keystore
from foedus.secure.site import SiteSession
site = SiteSession(Keystore(pathlib.Path(sys.argv[1])))
sys.stdout.write(getattr(site, sys.argv[2])(sys.stdin.read()))
"""


def test_every_leg_may_run_in_a_process_of_its_own(five: Any) -> None:
    """The leg with arrays runs here, from the state the processes before it left on disk."""

    def elsewhere(leg: str, text: str) -> str:
        command = [sys.executable, "-c", LEG, str(five.folder / "site-01"), leg]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    def answer(name: str, leg: str, text: str) -> str:
        return elsewhere(leg, text) if name == "site-01" else getattr(five.site(name), leg)(text)

    session = SumSession(five.roster, session=1, sums=1)
    for name in five.names:
        session.add_keys(answer(name, "keys", session.keys_request()))
    for name in five.names:
        session.add_shares(answer(name, "shares", session.shares_request()), site=name)
    masked = five.contribute(session, without=["site-04"])
    for name in masked.survivors:
        masked.add_consent(answer(name, "consent", masked.consent_request()), site=name)
    for name in masked.consenters:
        masked.add_unmask(answer(name, "unmask", masked.unmask_request()), site=name)
    five.check(masked.total(), five.names[:4])


def test_memory_does_not_grow_with_the_sites(federate: Federate) -> None:
    """Beside the 16 MB that leave, at twenty sites: a few chunks, not a vector a site."""
    sites = federate(20)
    quantities = {"x": Quantity((4_000_000,), low=-8, high=8, resolution=2.0**-20)}
    zeros = {"x": np.zeros(4_000_000)}
    masked = sites.session().begin(0, quantities, request=sites.request)
    site, text = sites.site("site-07"), masked.mask_request("site-07")
    tracemalloc.start()
    try:
        _, lanes = site.mask(text, zeros, quantities=quantities, request=sites.request)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < lanes.size_bytes + 2**24


def test_a_plain_sum_of_the_lanes_is_not_the_total(five: Any) -> None:
    """Without the last leg the coordinator holds noise."""
    masked = five.session().begin(0, five.quantities, request=five.request)
    layout = Layout(five.quantities, 5)
    lanes = layout.empty()
    for name in five.names:
        _, found = five.mask(masked, name)
        lanes = Lanes(lanes.narrow + found.narrow, lanes.wide + found.wide)
    with pytest.raises(SecureSumError, match="is out of the range that 5 sites can reach"):
        layout.decode(lanes, contributions=5)
