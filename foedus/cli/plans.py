"""What `foedus simulate --plan` prints."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json

if TYPE_CHECKING:
    from foedus.planning import Plan


def show_plan(plan: "Plan", *, as_json: JsonOption) -> None:
    """The plan as tables, or as JSON."""
    if as_json:
        print_json(plan.to_json())
        return
    console.print(_sites(plan))
    console.print(_exchanges(plan))
    for line in _lines(plan):
        console.print(line)


def size(n_bytes: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= step:
            return f"{n_bytes / step:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def _sites(plan: "Plan") -> Table:
    table = Table(title=f"{plan.study}: sites", title_justify="left")
    table.add_column("site")
    for name in ("train", "validation", "test", "embedding", "disk", "memory"):
        table.add_column(name, justify="right")
    for site in plan.sites:
        if site.records is None:
            table.add_row(site.site, *["–"] * 6)
            continue
        records = [str(site.records[split]) for split in ("train", "validation", "test")]
        costs = (f"{site.embedding_s:.1f} s", size(site.cache_bytes), size(site.memory_bytes))
        table.add_row(site.site + (" (new)" if site.newcomer else ""), *records, *costs)
    return table


def _exchanges(plan: "Plan") -> Table:
    title = "to and from one site, each time"
    table = Table(title=title, title_justify="left")
    table.add_column("exchange")
    for name in ("times", "down", "up", "down, masked", "up, masked"):
        table.add_column(name, justify="right")
    for exchange in plan.exchanges:
        plain, masked = exchange.plain, exchange.masked
        cells = [size(plain.down), size(plain.up)]
        cells += ["–", "–"] if masked is None else [size(masked.down), size(masked.up)]
        table.add_row(exchange.what, str(exchange.times), *cells)
    return table


def _lines(plan: "Plan") -> list[str]:
    backbone, exchanges = plan.backbone, sum(exchange.times for exchange in plan.exchanges)
    privacy, total_s = plan.privacy, sum(site.embedding_s for site in plan.sites)
    door = f"{privacy['mode']}, {'with' if plan.masked else 'without'} masks"
    lines = [
        f"[yellow]{site.site} does not take part: {escape(site.problem)}"
        for site in plan.sites
        if site.problem
    ]
    lines += [f"[yellow]{plan.missing}"] if plan.missing else []
    lines += [
        f"Backbone: {backbone['source']}, {backbone['tap']}: {backbone['dim']} features; network of "
        f"{backbone['parameters']:,} parameters, {size(backbone['size_bytes'])}. Trained: {plan.n_trained:,} numbers.",
        f"Embedding: {total_s:.1f} s for all sites together where nothing is cached yet; from {plan.measured}.",
        f"Wire ({door}): {exchanges} exchanges with {len(plan.training)} sites, {size(plan.total_bytes)} in all.",
        f"Memory: coordinator {size(plan.coordinator_bytes)}; here and above, beside Python and its "
        "libraries (0.3 GiB; with a network 1.1 GiB).",
    ]
    if privacy["guarantee"] is not None:
        releases = ", ".join(f"{name} {multiplier:.1f}" for name, multiplier in privacy["releases"].items())
        lines.append(
            f"Privacy: epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g}, {privacy['relation']}."
        )
        lines.append(f"Noise multiplier of each release: {releases}.")
    return lines
