"""The HTML page: no request leaves it, so it can be attached and archived."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

import orjson

from bench.openloop.latency import Latency
from bench.report.style import STYLE
from bench.report.svg import bars, lines, log_axis, percentile_axis, stack
from bench.report.units import shown, spread, time_label
from bench.tools.budget import Judged, judge
from bench.tools.document import Document
from bench.tools.goals import Goal

Documents = Mapping[str, Document]

_KINDS: Final = ("native", "floor", "grpcio")
_ROLES: Final = {
    "none": "no filter",
    "filters": "with the filters",
    "native": "our sidecars",
    "floor": "floor: a C server with static answers",
    "grpcio": "our sidecars on grpc.aio",
}


def page(documents: Documents, goals: Mapping[str, Goal], *, written: str) -> str:
    """Return the page of these results. `written` is the time of writing."""
    judged = [*judge(goals, documents), *own_goals(documents, goals)]
    sections = [
        _head(documents, judged, written),
        _budget(judged),
        *(_section(name, documents[name]) for name in sorted(documents, key=_order)),
        _raw(documents),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>edge-sidecars: benchmarks</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>"
    )


def own_goals(documents: Documents, budget: Mapping[str, Goal]) -> list[Judged]:
    """Compare each result with the goals of its benchmark that are not in the budget."""
    goals = {
        f"{bench}.{key}": Goal(bounds["at_least"], bounds["at_most"])
        for bench, content in documents.items()
        for key, bounds in content.get("goals", {}).items()
    }
    return judge({name: goal for name, goal in goals.items() if name not in budget}, documents)


def _order(name: str) -> tuple[bool, str]:
    return name != "envoy", name


def _head(documents: Documents, judged: list[Judged], written: str) -> str:
    missed = sum(one.verdict == "missed" for one in judged)
    absent = sum(one.verdict == "not measured" for one in judged)
    said = "All goals are met." if judged and not missed and not absent else ""
    said = said or f"{missed} of {len(judged)} goals are missed, {absent} were not measured."
    machines = {
        orjson.dumps(content.get("machine", {}).get("cpu")): content for content in documents.values()
    }
    lines_ = [_machine(content.get("machine", {})) for content in machines.values()]
    notes = [
        f"<li>{escape(name)}: {escape(note)}</li>"
        for name, content in documents.items()
        for note in content.get("notes", ())
    ]
    noted = f'<ul class="notes">{"".join(notes)}</ul>' if notes else ""
    return (
        f"<h1>edge-sidecars: benchmarks</h1><p class='lead'>{escape(said)}</p>"
        f"<p>{escape(written)}. {' '.join(lines_)} Compare ratios between machines, not times.</p>{noted}"
    )


def _machine(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine.get("packages", {}).items())
    parts = [
        f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}",
        f"kernel {machine.get('kernel', '?')}",
        f"Python {machine.get('python', '?')}",
        packages,
    ]
    return escape(", ".join(part for part in parts if part)) + "."


def _budget(judged: list[Judged]) -> str:
    if not judged:
        return "<h2>Budget</h2><p>No goal is about these results.</p>"
    rows = "".join(
        f'<tr class="{one.verdict.replace(" ", "-")}"><td>{escape(one.bench)}.{escape(one.figure)}</td>'
        f"<td class='number'>{escape(shown(one.figure, one.value))}</td><td>{escape(str(one.goal))}</td>"
        f'<td><span class="verdict">{_MARKS[one.verdict]} {one.verdict}</span></td></tr>'
        for one in judged
    )
    head = "<tr><th>figure</th><th>value</th><th>goal</th><th></th></tr>"
    return f'<h2>Budget</h2><div class="wide"><table id="budget">{head}{rows}</table></div>'


_MARKS: Final = {"met": "✓", "missed": "✗", "not measured": "?"}


def _section(name: str, content: Document) -> str:
    quick = " (quick)" if content.get("quick") else ""
    charts = "".join(_charts(name, content))
    return f"<h2>{escape(name)}{quick}</h2>{charts}{_figures(content)}"


def _charts(name: str, content: Document) -> Iterator[str]:
    figures, details = content["figures"], content.get("details", {})
    if name == "envoy":
        yield _throughput(figures)
        yield _cpu(figures)
    for label, kinds in details.get("latency", {}).items():
        yield _latency(label, {kind: Latency.decode(text) for kind, text in kinds.items()})
    for title, curve in details.get("curves", {}).items():
        yield _curve(title, curve)


def _throughput(figures: Mapping[str, Any]) -> str:
    found = {}
    for chosen in ("authz", "ratelimit", "accesslog", "all"):
        for kind in _KINDS:
            value = figures.get(f"{kind}_{chosen}_rps")
            if value is not None:
                found[f"{chosen}, {kind}"] = (kind, value)
    if figures.get("none_rps") is not None:
        found = {"no filter": ("none", figures["none_rps"]), **found}
    if not found:
        return ""
    return (
        f"<h3>Throughput at saturation</h3>{bars('Throughput at saturation', found, 'requests/s')}"
        + _roles([kind for kind in _ROLES if kind in {kind for kind, _ in found.values()}])
    )


def _roles(kinds: list[str]) -> str:
    items = (
        f'<span class="key"><span class="swatch s-{kind}"></span>{escape(_ROLES[kind])}</span>'
        for kind in kinds
    )
    return f'<p class="legend">{"".join(items)}</p>'


def _cpu(figures: Mapping[str, Any]) -> str:
    names = ("envoy", "authz", "ratelimit", "accesslog")
    found = {name: figures[f"{name}_cpu_us"] for name in names if figures.get(f"{name}_cpu_us") is not None}
    if not found:
        return ""
    chart = stack("CPU time of a request", found, "µs")
    return f"<h3>CPU time of a request with all filters</h3>{chart}"


def _latency(label: str, kinds: Mapping[str, Latency]) -> str:
    curves = {kind: _tail(latency) for kind, latency in kinds.items() if latency.calls}
    if not curves:
        return ""
    most = max(percentile for points in curves.values() for percentile, _ in points)
    values = [us for points in curves.values() for _, us in points]
    chosen, _, load = label.rpartition("_")
    title = f"Latency: {chosen} at {load} % of its saturation" if load.isdigit() else f"Latency: {label}"
    chart = lines(
        title, curves, percentile_axis(most), log_axis("from the intended start", values, time_label)
    )
    return f"<h3>{escape(title)}</h3>{chart}"


def _tail(latency: Latency) -> list[tuple[float, float]]:
    """Return the curve up to the percentile that at least one call decides."""
    decided = 100 * (1 - 1 / latency.calls)
    return [(percentile, us) for percentile, us in latency.curve() if percentile <= max(decided, 50) < 100]


def _curve(title: str, curve: Mapping[str, Any]) -> str:
    series = {kind: [(x, y) for x, y in points] for kind, points in curve["series"].items()}
    points = [point for found in series.values() for point in found]
    key = curve["y"]
    x = log_axis(curve["x"], [x for x, _ in points], lambda value: f"{value:,.0f}")
    y = log_axis(key, [y for _, y in points], lambda value: shown(key, value))
    return f"<h3>{escape(title)}</h3>{lines(title, series, x, y)}"


def _figures(content: Document) -> str:
    rounds = content.get("rounds", {})
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td class='number'>{escape(shown(key, value))}</td>"
        f"<td class='number'>{escape(spread(key, rounds.get(key)))}</td></tr>"
        for key, value in content["figures"].items()
    )
    head = "<tr><th>figure</th><th>median</th><th>rounds from and to</th></tr>"
    summary = f"{len(content['figures'])} figures"
    return (
        f'<details><summary>{summary}</summary><div class="wide"><table>{head}{rows}</table></div></details>'
    )


def _raw(documents: Documents) -> str:
    """Return all results as JSON that no text in them can end early."""
    text = orjson.dumps(dict(documents)).decode().replace("<", "\\u003c")
    return f'<script type="application/json" id="results">{text}</script>'
