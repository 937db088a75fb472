"""Ten thousand altered messages at a site that waits for its next leg: every one refused in one sentence."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foedus.errors import DoorError, SecureSumError
from foedus.secure import wire
from foedus.secure.roster import Roster

MESSAGES = 10_000
ME = "site-00"


def alter(text: str, rng: np.random.Generator) -> str:
    """`text` with a few characters, a value or a whole field changed."""
    if rng.random() < 0.5:
        characters = list(text)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(characters)))
            characters[at] = chr(int(rng.integers(32, 127)))
        return "".join(characters)
    found: Any = json.loads(text)
    _alter_a_value(found, rng)
    return wire.canonical(found).decode()


def _alter_a_value(found: Any, rng: np.random.Generator) -> None:
    keys = list(found) if isinstance(found, dict) else list(range(len(found)))
    key = keys[int(rng.integers(len(keys)))]
    if isinstance(found[key], dict | list) and len(found[key]) and rng.random() < 0.8:
        _alter_a_value(found[key], rng)
        return
    others = [None, -1, 2**60, 0.5, "", "x" * 100, [], {}, True, found[keys[int(rng.integers(len(keys)))]]]
    found[key] = others[int(rng.integers(len(others)))]


@pytest.mark.slow
def test_ten_thousand_altered_messages_are_refused_at_a_site(federate: Callable[[int], Any]) -> None:
    sites = federate(4)
    session = sites.session(sums=2)
    masked = sites.contribute(session)
    sites.agree(masked)
    good = masked.unmask_request()  # the site waits for this one, and for nothing else
    rng = np.random.default_rng(0)
    refused = 0
    while refused < MESSAGES:
        bad = alter(good, rng)
        if bad == good:
            continue
        with pytest.raises(SecureSumError) as error:
            sites.site(ME).unmask(bad)
        assert "\n" not in str(error.value)
        refused += 1
    sites.unmask(masked)
    sites.check(masked.total(), sites.names)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_coverage_guided_fuzzer_finds_no_way_past_the_decoders() -> None:
    # A child's peak memory begins at its parent's, which may be gigabytes here: only single allocations are limited.
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            "-runs=20000",
            "-max_len=4096",
            "-rss_limit_mb=0",
            "-malloc_limit_mb=1024",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def fuzz() -> None:
    """What the fuzzer runs: any bytes, through every decoder."""
    import atheris

    kinds = [
        kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, wire.Message)
    ]

    @atheris.instrument_func
    def one(data: bytes) -> None:
        for kind in [*kinds, Roster]:
            try:
                message = kind.decode(data)
            except DoorError:
                continue
            assert message.encode().encode() == data

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz()
