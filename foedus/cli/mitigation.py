"""Tables of foedus audit mitigate: the candidates, and every metric before and after."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from foedus.cli.output import console, number

if TYPE_CHECKING:
    from fairness.findings import Estimate
    from fairness.remedies import Mitigation, Offer


def show_mitigation(found: "Mitigation") -> None:
    """Print what was tried."""
    if found.alternatives:
        console.print(_alternatives(found))
    for offer in found.offers:
        if offer.refused is not None:
            console.print(
                f"[bold]{escape(offer.name)}[/]: not offered: {escape(offer.refused)}", soft_wrap=True
            )
            continue
        console.print(f"[bold]{escape(offer.name)}[/]: {escape(offer.how)}", soft_wrap=True)
        console.print(_gates(offer))
        console.print(_metrics(offer))


def _alternatives(found: "Mitigation") -> Table:
    gates = list(found.alternatives[0].figures)
    tried = f"{len(found.alternatives)} candidates on training and validation data"
    title = f"{tried}: the model as it is and those no other beats (all: mitigation.json)"
    table = Table(title=title, title_justify="left")
    for name in ("candidate", "threshold", "accuracy", *gates, "within", ""):
        table.add_column(escape(name))
    for each in found.alternatives:
        if each.on_front or each.chosen or each == found.alternatives[0]:
            figures = (number(each.figures[gate], 2) for gate in gates)
            marks = ("yes" if each.within else "", "chosen" if each.chosen else "")
            table.add_row(escape(each.name), number(each.threshold), number(each.accuracy), *figures, *marks)
    return table


def _gates(offer: "Offer") -> Table:
    table = Table(title="gates, on test data", title_justify="left")
    for name in ("gate", "before", "after"):
        table.add_column(name)
    for gate in offer.gates:
        name = f"{gate.metric} {gate.compare} {gate.tolerance:g} by {gate.attribute}"
        before, after = (
            f"{_shown(found)} {verdict}"
            for found, verdict in ((gate.before, gate.verdict_before), (gate.after, gate.verdict_after))
        )
        table.add_row(escape(name), escape(before), escape(after))
    return table


def _metrics(offer: "Offer") -> Table:
    from fairness.sections import attributes, before_after

    plain = offer.model_dump()
    table = Table(title="every metric before → after, on test data", title_justify="left")
    columns = [f"{key}, {kind}" for key in attributes(plain) for kind in ("difference", "ratio")]
    for name in ("metric", "everyone", *columns):
        table.add_column(escape(name))
    for metric, cells in before_after(plain):
        table.add_row(escape(metric), *map(escape, cells))
    return table


def _shown(found: "Estimate") -> str:
    if found.value is None:
        return "undefined"
    ends = "" if found.low is None else f" [{number(found.low)}, {number(found.high)}]"
    return f"{found.value:.3f}{ends}"
