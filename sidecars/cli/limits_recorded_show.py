"""Prints what limits would have done with recorded calls, and the limits that fit these."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ratelimit.tools.recorded import Skipped
from ratelimit.tools.simulate import OTHERS, Key, KeyCount, Simulation
from ratelimit.tools.suggest import Candidate, Suggestion
from sidecars.cli.printable import printable

COLUMNS: Final = 60
"""The bars of a chart; each is one minute or several."""

_BARS: Final = " ▁▂▃▄▅▆▇█"


def print_simulation(found: Simulation, skipped: Mapping[Skipped, int], top: int, *, json: bool) -> None:
    """Print what would have been refused: in all, by minute, and by key."""
    keys = sorted(found.keys.items(), key=lambda item: (-item[1].refused, -item[1].shadowed, -item[1].calls))
    if json:
        typer.echo(orjson.dumps(_simulation_data(found, skipped, keys[:top]), option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    if found.calls:
        out.print(_summary(found))
        out.print(_chart(found))
        out.print(_keys(keys[:top]))
        if len(keys) > top:
            out.print(f"and {len(keys) - top:,} more keys: --top")
    _print_skipped(skipped)
    if found.evicted:
        typer.echo(f"warning: {found.evicted:,} buckets were dropped for want of room", err=True)


def _summary(found: Simulation) -> Table:
    rows: list[tuple[str, str]] = [
        ("calls", f"{found.calls:,} from {_time(found.first_us)} to {_time(found.last_us)}"),
        ("refused", f"{found.refused:,} ({_percent(found.refused / found.calls)})"),
    ]
    if found.shadowed:
        rows.append(("shadow mode lets pass", f"{found.shadowed:,}"))
    if found.without_limit:
        rows.append(("without a limit", f"{found.without_limit:,}"))
    if found.invalid:
        rows.append(("answered with an error", f"{found.invalid:,}"))
    if found.same or found.newly_refused or found.newly_passed:
        changed = f"{found.newly_refused:,} newly refused, {found.newly_passed:,} newly passed"
        rows.append(("compared with the log", f"{found.same:,} the same, {changed}"))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _chart(found: Simulation) -> Table:
    """Return bars of the calls and of the refused ones, each as high as the highest of its row."""
    first, last = min(found.minutes), max(found.minutes)
    width = -(-(last - first + 1) // COLUMNS)
    bars = -(-(last - first + 1) // width)
    calls, refused = [0] * bars, [0] * bars
    for minute, (all_calls, refusals) in found.minutes.items():
        calls[(minute - first) // width] += all_calls
        refused[(minute - first) // width] += refusals
    table = Table.grid(padding=(0, 2))
    each = "minute" if width == 1 else f"{width} minutes"
    for name, counts in (("calls", calls), ("refused", refused)):
        table.add_row(f"{name}, each {each}", _line(counts), f"most {max(counts):,}")
    return table


def _line(counts: Sequence[int]) -> str:
    most = max(counts) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def _keys(keys: Sequence[tuple[Key, KeyCount]]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("key", "limit", "calls", "refused", "share", "worst minute"):
        table.add_column(name, overflow="fold")
    for (rule, entries), count in keys:
        name = "all others" if (rule, entries) == OTHERS else escape(printable(entries))
        worst = ""
        if count.minutes:
            minute, refused = count.minutes.most_common(1)[0]
            worst = f"{_time(minute * 60_000_000)[11:16]} ({refused:,})"
        shadowed = f" (shadow: {count.shadowed:,})" if count.shadowed else ""
        share = _percent(count.refused / count.calls)
        row = (
            name,
            escape(printable(rule)),
            f"{count.calls:,}",
            f"{count.refused:,}{shadowed}",
            share,
            worst,
        )
        table.add_row(*row)
    return table


def _simulation_data(
    found: Simulation, skipped: Mapping[Skipped, int], keys: Sequence[tuple[Key, KeyCount]]
) -> dict[str, Any]:
    names = (
        "calls", "refused", "shadowed", "without_limit", "invalid", "same", "newly_refused", "newly_passed",
        "evicted",
    )  # fmt: skip
    return {
        **{name: getattr(found, name) for name in names},
        "minutes": [
            {"minute": _time(minute * 60_000_000), "calls": calls, "refused": refused}
            for minute, (calls, refused) in sorted(found.minutes.items())
        ],
        "keys": [
            {
                "rule": rule,
                "entries": entries,
                "calls": count.calls,
                "refused": count.refused,
                "shadowed": count.shadowed,
                "minutes": {
                    _time(minute * 60_000_000): times for minute, times in sorted(count.minutes.items())
                },
            }
            for (rule, entries), count in keys
        ],
        "skipped": {reason.value: count for reason, count in skipped.items()},
    }


def print_suggestions(found: Sequence[Suggestion], skipped: Mapping[Skipped, int], *, json: bool) -> None:
    """Print what each kind of key asks for in a period, and what candidates would have refused."""
    if json:
        data = [{**asdict(one), "unit": one.unit.name.lower()} for one in found]
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    for shape in dict.fromkeys((one.domain, one.keys) for one in found):
        table = Table("per", "keys at once", "p50", "p99", "most", box=None, header_style="bold")
        for one in found:
            if (one.domain, one.keys) == shape:
                table.add_row(
                    one.unit.name.lower(), f"{one.values:,}", *map(_candidate, (one.p50, one.p99, one.most))
                )
        out.print(f"[bold]{escape(printable(shape[0]))}: {escape(printable(', '.join(shape[1])))}[/]")
        out.print(table)
    left_out = sum(one.left_out for one in found)
    if left_out:
        typer.echo(f"warning: {left_out:,} hits of too many different keys are left out", err=True)
    _print_skipped(skipped)


def _candidate(candidate: Candidate) -> str:
    return f"{candidate.limit:,} (refuses {_percent(candidate.refused_share)})"


def print_limits_file(found: Sequence[Suggestion]) -> None:
    """Print the 99th percentiles as a limits file. All are of one domain; without any it prints nothing."""
    if not found:
        return
    root: dict[str, Any] = {"domain": found[0].domain, "descriptors": []}
    for one in found:
        limit = {"unit": one.unit.name.lower(), "requests_per_unit": one.p99.limit}
        _put(root, one.keys, limit)
    typer.echo(yaml.safe_dump(root, sort_keys=False).rstrip())


def _put(parent: dict[str, Any], keys: Sequence[str], limit: Mapping[str, Any]) -> None:
    below = parent.setdefault("descriptors", [])
    node = next((one for one in below if one["key"] == keys[0]), None)
    if node is None:
        node = {"key": keys[0]}
        below.append(node)
    if len(keys) == 1:
        node["rate_limit"] = dict(limit)
    else:
        _put(node, keys[1:], limit)


def _print_skipped(skipped: Mapping[Skipped, int]) -> None:
    for reason, count in Counter(skipped).most_common():
        typer.echo(f"skipped {count:,}: {reason.value}", err=True)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "under 0.1%"


def _time(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
