"""Whether this machine can take part: the way to the coordinator, clocks, versions, disk and device.

What is wrong is said in one sentence with what to do, here and where a site's node gives up.
"""

import re
import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import flwr
import httpx

from clients.membership import AUTHORITY, Membership
from foedus import __version__
from foedus.data import CheckRow
from foedus.enrolment import VERSIONS
from foedus.errors import ConfigError
from foedus.site import load_site

BEHIND_S, AHEAD_S = 300.0, 5.0
"""How far this machine's clock may be behind and ahead of the coordinator's before Flower refuses it."""
SPARE_GB = 2.0
"""Less free disk than this is told: features and reports are kept there."""
PATIENCE_S = 10.0
LONGEST_VERSION = 40


def machine_rows(folder: Path) -> Iterator[CheckRow]:
    """Disk and device, whether or not the site has joined."""
    free = shutil.disk_usage(folder).free / 1e9
    low = free < SPARE_GB
    fix = "free some: features, reports and the ledger are written below the site's folder" if low else ""
    yield CheckRow("disk", f"{free:.1f} GB free", "warn" if low else "ok", fix)
    try:
        device = load_site(folder).device
    except ConfigError:  # told elsewhere in the table
        return
    if device == "cpu":
        yield CheckRow("device", "cpu")
        return
    import torch

    if torch.cuda.is_available():
        yield CheckRow("device", f"{device}: {torch.cuda.get_device_name(torch.device(device))}")
    else:
        yield CheckRow(
            "device",
            f"{device}, but torch sees no GPU",
            "fail",
            'install the GPU\'s driver, or set device = "cpu" in site.toml',
        )


def connection_rows(site: Membership) -> Iterator[CheckRow]:
    """The coordinator's address, certificate, clock and versions; nothing while the site has not joined."""
    try:
        kit = site.kit()
    except ConfigError:
        return
    context = ssl.create_default_context(cafile=str(site.node / AUTHORITY))
    try:
        with httpx.Client(verify=context, timeout=PATIENCE_S, trust_env=False) as client:
            answer = client.get(f"https://{kit.address}{VERSIONS}")
    except httpx.TransportError as error:
        yield CheckRow("coordinator", kit.address, "fail", unreachable(kit.address, error))
        return
    yield CheckRow("coordinator", f"{kit.coordinator} answers at {kit.address}, with the kit's certificate")
    yield _clock_row(clock_skew(answer))
    yield from _version_rows(answer)


def _clock_row(skew: float | None) -> CheckRow:
    if skew is None:
        return CheckRow("clock", "the coordinator does not say its time", "warn", "run an NTP service")
    if is_refused(skew):
        return CheckRow("clock", f"{skew:+.0f} s", "fail", skewed(skew))
    return CheckRow("clock", f"within {abs(skew):.0f} s of the coordinator's")


def _version_rows(answer: httpx.Response) -> Iterator[CheckRow]:
    try:
        there = answer.json()
    except ValueError:
        there = None
    if answer.status_code != 200 or not isinstance(there, dict):
        yield CheckRow("versions", "the coordinator does not say", "warn", "ask which foedus it runs")
        return
    for name, here, parts in (("foedus", __version__, 3), ("flwr", flwr.__version__, 2)):  # flwr: major.minor
        found = re.sub(r"[^0-9A-Za-z.+-]", "?", str(there.get(name))[:LONGEST_VERSION])
        if found.split(".")[:parts] == here.split(".")[:parts]:
            yield CheckRow(name, f"{here} here, {found} at the coordinator")
        else:
            fix = f"install {name} {found} here, or ask all sites and the coordinator to change together"
            yield CheckRow(name, f"{here} here, {found} at the coordinator", "fail", fix)


def is_refused(skew: float) -> bool:
    """Whether Flower refuses a node whose clock is that far ahead, in seconds."""
    return not -BEHIND_S < skew < AHEAD_S


def clock_skew(answer: httpx.Response) -> float | None:
    """Seconds this machine's clock is ahead of the server's, to a second; None if it does not say its time."""
    try:
        there = parsedate_to_datetime(answer.headers.get("date", ""))
    except (ValueError, OverflowError):
        return None
    return (datetime.now(UTC) - (there if there.tzinfo else there.replace(tzinfo=UTC))).total_seconds()


def skewed(seconds: float) -> str:
    """What to say about clocks that differ."""
    which = "ahead of" if seconds > 0 else "behind"
    return (
        f"this machine's clock is {abs(seconds):.0f} s {which} the coordinator's, and messages are signed with "
        "the time; set the clock, or run an NTP service"
    )


def unreachable(address: str, error: httpx.TransportError) -> str:
    """What to say about a server that cannot be spoken to."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return (
            f"{address} does not answer ({error or type(error).__name__}); check the network, the firewall, and that "
            "the coordinator is up"
        )
    if "expired" in cause.verify_message:
        return (
            f"the certificate of {address} has expired; ask the coordinator to run foedus coordinator renew"
        )
    if "self-signed" in cause.verify_message or "unable to get local issuer" in cause.verify_message:
        return (
            f"{address} shows a certificate of another authority than the kit's; it is not the coordinator this "
            "site joined, or it was set up anew: ask for a new kit"
        )
    return (
        f"the certificate of {address} is not valid ({cause.verify_message}); ask the coordinator to renew it"
    )
