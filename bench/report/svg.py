"""Charts as inline SVG. Colours are CSS classes, so that the page decides them for light and dark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 70, 34, 12, 44
ROW: Final = 26
LABEL: Final = 160
VALUE: Final = 140

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
    """Return a line chart; the keys of the series are also their CSS classes."""
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + x.place(point[0]) * plot_width, TOP + (1 - y.place(point[1])) * plot_height

    parts = [_open(name, HEIGHT)]
    for value, label in y.ticks:
        row = TOP + (1 - y.place(value)) * plot_height
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(_text(LEFT - 8, row + 4, label, "tick end"))
    for value, label in x.ticks:
        column = LEFT + x.place(value) * plot_width
        parts.append(_text(column, HEIGHT - BOTTOM + 18, label, "tick middle"))
    parts.append(_text(LEFT + plot_width / 2, HEIGHT - 6, x.title, "axis middle"))
    parts.append(
        f'<text class="axis middle" transform="translate(14 {TOP + plot_height / 2}) rotate(-90)">'
        f"{escape(y.title)}</text>"
    )
    for key, points in series.items():
        path = " ".join(f"{column:.1f},{row:.1f}" for column, row in map(at, points))
        parts.append(f'<polyline class="line s-{escape(key)}" points="{path}"/>')
        for point in points:
            column, row = at(point)
            said = f"{key}: {point[0]:g}, {point[1]:,.4g}"
            parts.append(
                f'<circle class="dot s-{escape(key)}" cx="{column:.1f}" cy="{row:.1f}" r="3">'
                f"<title>{escape(said)}</title></circle>"
            )
    return "".join([*parts, "</svg>", legend(list(series))])


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
