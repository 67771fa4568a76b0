"""Prints the explanation of `sidecars logs why` on one screen, or as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidecars.cli.log_lines import colour_of, milliseconds
from sidecars.cli.logs_why import Why, flags_in
from sidecars.cli.printable import printable

_BAR = 30


def show(why: Why, *, json: bool) -> None:
    """Print `why`."""
    if json:
        typer.echo(orjson.dumps(asdict(why), option=orjson.OPT_INDENT_2))
        return
    out = Console(highlight=False)
    record = why.record
    out.print(f"[{colour_of(record.get('code', 200))}]{_shown(why.verdict)}[/]")
    _block(out, "request", _request(record))
    _block(out, "authz", _authz(record, why.decision))
    _block(out, "ratelimit", _ratelimit(record, why.limits))
    _block(out, "upstream", _upstream(record))
    if why.phases:
        out.print("[bold]where the time went[/]")
        out.print(_bars(why))
    if why.others:
        out.print(f"[dim]{why.others} more records have this id; this is the last one[/]")
    for note in why.notes:
        out.print(f"[dim]{_shown(note)}[/]", soft_wrap=True)
    if why.processes:
        out.print("[bold]the sidecars now[/]")
        for line in why.processes:
            out.print(f"  {_shown(line)}", soft_wrap=True)
    if why.next_commands:
        out.print("[bold]next[/]")
        for command in why.next_commands:
            out.print(f"  {_shown(command)}", soft_wrap=True)


def _request(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    target = f"{record.get('scheme', '')}://{record.get('authority', '')}{record.get('path', '')}"
    query = record.get("query")
    yield "request", f"{record.get('method', '-')} {target}{f'?{query}' if query else ''}"
    yield "time", record.get("time")
    yield "id", record.get("request_id") or record.get("stream_id")
    yield "client", record.get("client_ip") or record.get("downstream_remote_address")
    yield "route", " to ".join(filter(None, (record.get("route"), record.get("cluster"))))
    yield "envoy", record.get("node_id")
    yield "details", record.get("code_details")
    yield from flags_in(record)


def _authz(record: Mapping[str, Any], decision: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "outcome", record.get("authz_outcome")
    yield "rule", record.get("authz_rule")
    yield "reason", record.get("authz_reason")
    yield "detail", decision.get("detail") or _other_metadata(record).get("detail")
    caller = " ".join(filter(None, (record.get("authz_credential"), record.get("authz_subject"))))
    yield "caller", caller or ("anonymous" if "authz_outcome" in record else None)
    yield "issuer", decision.get("issuer")
    shadow = record.get("authz_shadow_outcome")
    yield "shadow", f"would be {shadow} by {record.get('authz_shadow_rule', 'no rule')}" if shadow else None
    yield "revision", record.get("authz_policy_revision")
    yield "decision", record.get("authz_decision_id")


def _other_metadata(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (record.get("metadata") or {}).get("envoy.filters.http.ext_authz")
    return found if isinstance(found, dict) else {}


def _ratelimit(record: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "outcome", record.get("ratelimit_outcome")
    yield "domain", record.get("ratelimit_domain")
    yield "limit", record.get("ratelimit_rule")
    yield "reason", record.get("ratelimit_reason")
    if limits:
        yield "left", ", ".join(f"{name} {value}" for name, value in limits.items())
    for descriptor in record.get("ratelimit_descriptors", ()):
        if isinstance(descriptor, dict):
            yield "descriptor", ", ".join(map(str, descriptor.get("entries", ())))
    yield "revision", record.get("ratelimit_revision")


def _upstream(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "host", record.get("upstream_remote_address")
    if record.get("upstream_remote_address"):
        yield "answer", record.get("code")
        attempts = record.get("upstream_attempts")
        yield "attempts", attempts if attempts and attempts > 1 else None
    yield "failure", record.get("upstream_transport_failure_reason")


def _block(out: Console, title: str, rows: Iterable[tuple[str, Any]]) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=2)
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, ""):
            table.add_row("", name, _shown(value))
    if table.row_count:
        out.print(f"[bold]{title}[/]")
        out.print(table)


def _bars(why: Why) -> Table:
    total = max(why.record.get("duration_us", 0), 1)
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=2)
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column(style="green", no_wrap=True)
    table.add_column()
    for phase in why.phases:
        bar = "#" * max(1, round(_BAR * min(1, phase.microseconds / total)))
        table.add_row("", milliseconds(phase.microseconds), bar, phase.name)
    table.add_row("", milliseconds(total), "", "in all")
    return table


def _shown(text: Any) -> str:
    return escape(printable(text))
