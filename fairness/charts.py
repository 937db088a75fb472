"""Inline SVG for the report: interval strips, axes and curves. Pure functions of numbers.

Every drawing has role="img" and a title that says in words what it shows; colours come from
the style sheet through classes, and series differ by marker as well as by colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup, escape

STRIP = (230, 26)
CELL = (118, 14)
PANEL = (470, 230)
PAD = 6.0
MARKERS = 4


Point = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class Scale:
    """Values low..high on pixels start..end; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


@dataclass(frozen=True)
class Series:
    """A line: (x, y, low, high) points; low and high are None where there is no interval."""

    name: str
    points: Sequence[Point]


def svg(size: tuple[int, int], title: str, body: str, *, kind: str) -> Markup:
    """A drawing with its title; `body` is already escaped."""
    width, height = size
    label = escape(title)
    return Markup(  # noqa: S704 - every text in the body went through escape()
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}"><title>{label}</title>{body}</svg>'
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most` steps apart."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, floor(high / step + 1e-9) + 1)]


def interval_strip(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    band: tuple[float, float],
    top: float,
    title: str,
) -> Markup:
    """One gate: its interval over the band that is accepted; 0..`top` on the axis."""
    width, height = STRIP
    x, middle = Scale(0, top, PAD, width - PAD), height / 2
    left, right = x(band[0]), x(band[1])
    edge = right if band[0] == 0 else left
    body = (
        f'<rect class="band" x="{left}" y="0" width="{round(right - left, 2)}" height="{height}"/>'
        f'<line class="edge" x1="{edge}" x2="{edge}" y1="0" y2="{height}"/>'
    )
    if value is not None and low is not None and high is not None:
        body += _whisker(x(low), x(value), x(high), middle, size=4)
    return svg(STRIP, title, body, kind="strip")


def axis_strip(top: float) -> Markup:
    """The axis that belongs to a column of `interval_strip`."""
    width, height = STRIP[0], 18
    x = Scale(0, top, PAD, width - PAD)
    body = f'<line class="axis" x1="{PAD}" x2="{width - PAD}" y1="1" y2="1"/>'
    for tick in ticks(0, top):
        body += f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="1" y2="5"/>'
        body += f'<text x="{x(tick)}" y="16" text-anchor="middle">{tick:g}</text>'
    return svg((width, height), f"axis from 0 to {top:g}", body, kind="strip")


def rate_cell(
    value: float | None, low: float | None, high: float | None, *, overall: float | None, title: str
) -> Markup:
    """One rate on 0..1 with its interval, without a dot if it is hidden; the dashed line is everyone together."""
    width, height = CELL
    x, middle = Scale(0, 1, 4.0, width - 4.0), height / 2
    body = f'<line class="axis" x1="4" x2="{width - 4}" y1="{middle}" y2="{middle}"/>'
    for tick in (0.0, 0.5, 1.0):
        body += f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="{middle - 2}" y2="{middle + 2}"/>'
    if overall is not None:
        body += f'<line class="overall" x1="{x(overall)}" x2="{x(overall)}" y1="0" y2="{height}"/>'
    if low is not None and high is not None:
        body += _whisker(x(low), None if value is None else x(value), x(high), middle, size=3)
    return svg(CELL, title, body, kind="cell")


def curve(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """Lines with markers, and error bars where points have them."""
    width, height = PANEL
    xs = [p[0] for s in series for p in s.points]
    ys = [y for s in series for p in s.points for y in p[1:] if y is not None]
    if not xs:
        return Markup("")
    y_ticks = ticks(*_padded(min(ys), max(ys)))
    x = Scale(min(xs), max(max(xs), min(xs) + 1), 52, width - 14)
    y = Scale(*_padded(min(ys), max(ys)), height - 40, 30)
    body = "".join(
        f'<line class="grid" x1="52" x2="{width - 14}" y1="{y(t)}" y2="{y(t)}"/>'
        f'<text x="46" y="{y(t) + 4}" text-anchor="end">{t:g}</text>'
        for t in y_ticks
    )
    named = sorted(set(xs))
    x_ticks = named if len(named) <= 10 else [t for t in ticks(min(xs), max(xs), 8) if t == int(t)]
    body += "".join(f'<text x="{x(t)}" y="{height - 22}" text-anchor="middle">{t:g}</text>' for t in x_ticks)
    body += (
        f'<text x="{(52 + width - 14) / 2}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    body += f'<text class="strong" x="8" y="14">{escape(y_label)}</text>'
    body += "".join(_line(s, i, x, y) for i, s in enumerate(series))
    body += _legend([s.name for s in series], width)
    return svg(PANEL, title, body, kind="panel")


def scatter(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """Points without lines, one marker for each series."""
    width, height = PANEL
    xs = [p[0] for s in series for p in s.points]
    ys = [p[1] for s in series for p in s.points]
    if not xs:
        return Markup("")
    x = Scale(*_padded(min(xs), max(xs)), 52, width - 14)
    y = Scale(*_padded(min(ys), max(ys)), height - 40, 30)
    body = "".join(
        f'<line class="grid" x1="52" x2="{width - 14}" y1="{y(t)}" y2="{y(t)}"/>'
        f'<text x="46" y="{y(t) + 4}" text-anchor="end">{t:g}</text>'
        for t in ticks(y.low, y.high)
    )
    body += "".join(
        f'<text x="{x(t)}" y="{height - 22}" text-anchor="middle">{t:g}</text>' for t in ticks(x.low, x.high)
    )
    body += f'<text x="{(38 + width) / 2}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>'
    body += f'<text class="strong" x="8" y="14">{escape(y_label)}</text>'
    body += "".join(_marker(i, x(p[0]), y(p[1])) for i, s in enumerate(series) for p in s.points)
    body += _legend([s.name for s in series], width)
    return svg(PANEL, title, body, kind="panel")


def reliability(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """Observed over predicted, both 0..1; on the diagonal the model is as often right as it says."""
    if not any(s.points for s in series):
        return Markup("")
    (width, height), edge = PANEL, (0.0, 0.25, 0.5, 0.75, 1.0)
    x, y = Scale(0, 1, 52, width - 14), Scale(0, 1, height - 40, 30)
    body = "".join(
        f'<line class="grid" x1="52" x2="{width - 14}" y1="{y(t)}" y2="{y(t)}"/>'
        f'<text x="46" y="{y(t) + 4}" text-anchor="end">{t:g}</text>'
        f'<text x="{x(t)}" y="{height - 22}" text-anchor="middle">{t:g}</text>'
        for t in edge
    )
    body += f'<line class="overall" x1="{x(0)}" x2="{x(1)}" y1="{y(0)}" y2="{y(1)}"/>'
    body += (
        f'<text x="{(52 + width - 14) / 2}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    body += f'<text class="strong" x="8" y="14">{escape(y_label)}</text>'
    body += "".join(_line(s, i, x, y) for i, s in enumerate(series))
    body += _legend([s.name for s in series], width)
    return svg(PANEL, title, body, kind="panel")


def _whisker(low: float, value: float | None, high: float, middle: float, *, size: int) -> str:
    found = (
        f'<line class="interval" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
        f'<line class="interval" x1="{low}" x2="{low}" y1="{middle - size}" y2="{middle + size}"/>'
        f'<line class="interval" x1="{high}" x2="{high}" y1="{middle - size}" y2="{middle + size}"/>'
    )
    return found if value is None else f'{found}<circle class="point" cx="{value}" cy="{middle}" r="{size}"/>'


def _line(series: Series, index: int, x: Scale, y: Scale) -> str:
    colour = f"s{index % MARKERS}"
    path = " ".join(f"{x(px)},{y(py)}" for px, py, _, _ in series.points)
    body = f'<polyline class="line {colour}" points="{path}"/>'
    for px, py, low, high in series.points:
        if low is not None and high is not None:
            body += f'<line class="bar {colour}" x1="{x(px)}" x2="{x(px)}" y1="{y(low)}" y2="{y(high)}"/>'
        body += _marker(index, x(px), y(py))
    return f"<g>{body}</g>"


def _marker(index: int, cx: float, cy: float) -> str:
    kind, colour = index % MARKERS, f"mark s{index % MARKERS}"
    if kind == 0:
        return f'<circle class="{colour}" cx="{cx}" cy="{cy}" r="3"/>'
    if kind == 1:
        return f'<rect class="{colour}" x="{cx - 3}" y="{cy - 3}" width="6" height="6"/>'
    if kind == 2:
        return f'<path class="{colour}" d="M{cx} {cy - 4}L{cx + 4} {cy + 3}L{cx - 4} {cy + 3}Z"/>'
    return f'<path class="{colour}" d="M{cx} {cy - 4}L{cx + 4} {cy}L{cx} {cy + 4}L{cx - 4} {cy}Z"/>'


def _legend(names: Sequence[str], width: int) -> str:
    """Names with their markers, right-aligned on the first line."""
    body, right = "", float(width - 14)
    for index in reversed(range(len(names))):
        body += f'<text x="{right}" y="14" text-anchor="end">{escape(names[index])}</text>'
        right -= 6.3 * len(names[index]) + 9
        body += _marker(index, round(right, 2), 10)
        right -= 14
    return body


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.08 or max(abs(high) * 0.05, 0.01)
    return low - margin, high + margin
