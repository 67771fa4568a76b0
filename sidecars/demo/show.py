"""The output of the demo on a terminal."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.scenario import RowResult

POLICY_LINES: Final = (
    ".venv/bin/sidecars policy test examples/policy-tests",
    (
        "sed 's/orders:write/orders:read/' examples/policy.yaml > broken.yaml"
        " && .venv/bin/sidecars policy test examples/policy-tests --policy broken.yaml"
    ),
    (
        ".venv/bin/sidecars policy explain --policy broken.yaml --subject bob --scopes orders:read"
        " -X POST https://api.example.com/orders"
    ),
)
"""Commands for a checkout: test the policy of the demo, break a rule, see a test fail, explain it."""


def results_table(results: Sequence[RowResult]) -> Table:
    """Return a table of requests with expected and actual results."""
    table = Table(title="Through Envoy", title_justify="left", expand=False)
    for heading in ("", "request", "", "should", "did"):
        table.add_column(heading, overflow="fold")
    for number, result in enumerate(results, start=1):
        row = result.row
        verdict = "[yellow]-[/]" if row.skipped else "[red]no[/]" if result.problems else "[green]ok[/]"
        did = "\n".join((result.did, *(f"[red]{escape(problem)}[/]" for problem in result.problems)))
        request = f"{row.name}\n[dim]{row.method} {escape(row.path)}[/]"
        table.add_row(str(number), request, verdict, row.should, did)
    return table


def log_table(results: Sequence[RowResult]) -> Table:
    """Return a table of the access log lines, by the number of the row above; equal lines once."""
    table = Table(title="The access log of these requests", title_justify="left", expand=False)
    for heading in ("", "code", "authz", "subject", "ratelimit"):
        table.add_column(heading, overflow="fold")
    for number, result in enumerate(results, start=1):
        for cells in dict.fromkeys(_cells(line) for line in result.lines):
            table.add_row(str(number), *map(escape, cells))
    return table


def curl_lines(edge: Edge, session: str) -> tuple[str, ...]:
    """Return commands to try, with credentials."""
    reader = bearer(edge.provider.token("alice", "orders:read"))["authorization"]
    writer = bearer(edge.provider.token("bob", "orders:read orders:write"))["authorization"]
    url, socket = edge.url, edge.places.socket("authz")
    return (
        f"curl -i {url}/public/hello",
        f"curl -i {url}/orders",
        f"curl -i {url}/orders -H {quote(f'authorization: {reader}')}",
        f"curl -i {url}/orders -X POST -H {quote(f'authorization: {writer}')}",
        f"curl -i {url}/orders -b {quote(f'session={session}')}",
        f"curl -i {url}/orders -H {quote(f'x-api-key: {edge.api_key}')}",
        f"for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\\n' -X POST {url}/login; done",
        f"tail -f {quote(str(edge.places.access_log))}",
        f"grpcurl -plaintext {quote(f'unix://{socket}')} list",
    )


def print_policy_lines(console: Console) -> None:
    """Print the commands to test, break and explain the policy."""
    console.print("\nThe policy that decided has tests. In a checkout, run, break and explain it:\n")
    for line in POLICY_LINES:
        # As plain text: a wrapped line cannot be pasted.
        console.print(line, soft_wrap=True, markup=False)


def print_results(console: Console, results: Sequence[RowResult]) -> None:
    """Print both tables, and one complete line of the log."""
    console.print(results_table(results))
    console.print(log_table(results))
    lines = [line for result in results for line in result.lines]
    if lines:
        console.print("One whole line:")
        console.print_json(data=max(lines, key=len), indent=None)


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    outcome, rule, reason = (line.get(f"authz_{name}", "") for name in ("outcome", "rule", "reason"))
    decision = f"{outcome} by {rule}" if rule else str(outcome or "not asked")
    limit = line.get("ratelimit_outcome", "not asked")
    if "ratelimit_rule" in line:
        limit += f" by {line['ratelimit_rule']}"
    return (
        str(line.get("code")),
        decision if outcome in {"allow", ""} else f"{decision}: {reason}",
        str(line.get("authz_subject", "")),
        limit,
    )
