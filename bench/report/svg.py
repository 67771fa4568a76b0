"""Charts as inline SVG. Colours are CSS classes, so that the page decides them for light and dark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

from bench.report.style import STYLE

WIDTH: Final = 640
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 70, 34, 12, 44
ROW: Final = 26
LABEL: Final = 160
VALUE: Final = 140
_PLOT_WIDTH: Final = WIDTH - LEFT - RIGHT
_PLOT_HEIGHT: Final = HEIGHT - TOP - BOTTOM

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: where a value is between 0 and 1, and the ticks with their labels."""

    title: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def log_axis(title: str, values: Sequence[float], label: Callable[[float], str]) -> Axis:
    """Return a logarithmic axis over the values, with a tick at each power of ten."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = floor(log10(min(positive))), ceil(log10(max(positive)))
    high = max(high, low + 1)

    def place(value: float) -> float:
        return (log10(max(value, 10.0**low)) - low) / (high - low)

    return Axis(title, place, [(10.0**power, label(10.0**power)) for power in range(low, high + 1)])


def linear_axis(title: str, ticks: Sequence[tuple[float, str]]) -> Axis:
    """Return a linear axis from the first tick to the last."""
    low, high = ticks[0][0], ticks[-1][0]
    return Axis(title, lambda value: (value - low) / (high - low), ticks)


def percentile_axis(most: float) -> Axis:
    """Return the axis of HdrHistogram's plots: 90, 99 and 99.9 % have equal distances."""
    nines = max(1, ceil(-log10(1 - most / 100) - 1e-9))

    def place(percentile: float) -> float:
        return min(1.0, -log10(max(1 - percentile / 100, 10.0**-nines)) / nines)

    ticks = [(0.0, "0")]
    ticks += [
        (100 - 10.0 ** (2 - power), f"{100 - 10.0 ** (2 - power):.6g}") for power in range(1, nines + 1)
    ]
    return Axis("percentile of requests", place, ticks)


def lines(name: str, series: Mapping[str, Points], x: Axis, y: Axis) -> str:
    """Return a line chart with a dot at each point; the keys of the series are also their CSS classes."""
    parts = [_open(name, HEIGHT), _axes(x, y)]
    for key, points in series.items():
        parts.append(_line(key, points, x, y))
        for point in points:
            column, row = _place(point, x, y)
            said = f"{key}: {point[0]:g}, {point[1]:,.4g}"
            parts.append(
                f'<circle class="dot s-{escape(key)}" cx="{column:.1f}" cy="{row:.1f}" r="3">'
                f"<title>{escape(said)}</title></circle>"
            )
    return "".join([*parts, "</svg>", legend(list(series))])


def image(name: str, series: Mapping[str, tuple[str, Points]], x: Axis, y: Axis) -> str:
    """Return a line chart as a file. The series have names, and the CSS classes of their colours."""
    start = _open(name, HEIGHT).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    parts = [start, f"<style>{STYLE}</style>", _axes(x, y)]
    for place, (text, (kind, points)) in enumerate(series.items()):
        parts.append(_line(kind, points, x, y))
        top = TOP + 16 + 18 * place
        ends = f'x1="{LEFT + 12}" x2="{LEFT + 36}" y1="{top - 4}" y2="{top - 4}"'
        parts += [f'<line class="line s-{escape(kind)}" {ends}/>', _text(LEFT + 42, top, text, "tick")]
    return "\n".join([*parts, "</svg>", ""])


def _axes(x: Axis, y: Axis) -> str:
    parts = []
    for value, label in y.ticks:
        _, row = _place((0, value), x, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(_text(LEFT - 8, row + 4, label, "tick end"))
    for value, label in x.ticks:
        parts.append(_text(LEFT + x.place(value) * _PLOT_WIDTH, HEIGHT - BOTTOM + 18, label, "tick middle"))
    parts.append(_text(LEFT + _PLOT_WIDTH / 2, HEIGHT - 6, x.title, "axis middle"))
    parts.append(
        f'<text class="axis middle" transform="translate(14 {TOP + _PLOT_HEIGHT / 2}) rotate(-90)">'
        f"{escape(y.title)}</text>"
    )
    return "".join(parts)


def _line(kind: str, points: Points, x: Axis, y: Axis) -> str:
    path = " ".join(f"{column:.1f},{row:.1f}" for column, row in (_place(point, x, y) for point in points))
    return f'<polyline class="line s-{escape(kind)}" points="{path}"/>'


def _place(point: tuple[float, float], x: Axis, y: Axis) -> tuple[float, float]:
    return LEFT + x.place(point[0]) * _PLOT_WIDTH, TOP + (1 - y.place(point[1])) * _PLOT_HEIGHT


def bars(name: str, values: Mapping[str, tuple[str, float]], unit: str) -> str:
    """Return horizontal bars; each value has the CSS class of its colour."""
    most = max((value for _, value in values.values()), default=1.0) or 1.0
    room = WIDTH - LABEL - VALUE
    parts = [_open(name, ROW * len(values) + 8)]
    for place, (label, (kind, value)) in enumerate(values.items()):
        top = place * ROW + 4
        width = max(1.0, value / most * room)
        said = f"{value:,.0f} {unit}"
        parts.append(_text(LABEL - 8, top + 15, label, "tick end"))
        parts.append(
            f'<rect class="bar s-{escape(kind)}" x="{LABEL}" y="{top}" width="{width:.1f}" height="18">'
            f"<title>{escape(f'{label}: {said}')}</title></rect>"
        )
        parts.append(_text(LABEL + width + 6, top + 15, said, "tick"))
    return "".join([*parts, "</svg>"])


def stack(name: str, values: Mapping[str, float], unit: str) -> str:
    """Return one bar of segments, whose keys are their CSS classes."""
    total = sum(values.values()) or 1.0
    left = 0.0
    parts = [_open(name, 40)]
    for kind, value in values.items():
        width = value / total * WIDTH
        said = f"{kind}: {value:,.0f} {unit} ({value / total:.0%})"
        parts.append(
            f'<rect class="bar s-{escape(kind)}" x="{left:.1f}" y="4" width="{max(0.0, width - 2):.1f}" '
            f'height="32"><title>{escape(said)}</title></rect>'
        )
        left += width
    shown = [f"{kind} {value:,.0f} {unit}" for kind, value in values.items()]
    return "".join([*parts, "</svg>", legend(list(values), shown)])


def legend(kinds: Sequence[str], texts: Sequence[str] | None = None) -> str:
    """Return the names next to their colours."""
    items = (
        f'<span class="key"><span class="swatch s-{escape(kind)}"></span>{escape(text)}</span>'
        for kind, text in zip(kinds, texts or kinds, strict=True)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def _open(name: str, height: int) -> str:
    title = escape(name)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>'


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
