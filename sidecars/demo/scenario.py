"""A request, what should come of it, and whether it did."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from sidecars.demo.ask import Answer, ask
from sidecars.demo.edge import Edge

USER_AGENT = "edge-sidecars-demo/"
"""With the number of the row behind it, so that a line of the access log finds its row."""


Check = Callable[[Sequence[Answer]], str]
"""What is wrong with the answers to a row's requests; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request (sent `times` times, one after the other) and what should come of it."""

    name: str
    should: str
    path: str
    checks: tuple[Check, ...]
    logged: Mapping[str, Any]
    """Fields that the last line of the access log must have."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    before: Callable[[], Awaitable[object]] | None = None


@dataclass(slots=True)
class Result:
    """What came of a row: its answers, its lines of the access log, and everything wrong with them."""

    row: Row
    answers: Sequence[Answer]
    problems: list[str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def did(self) -> str:
        """The statuses, as `200` or `5 x 200, 3 x 429`."""
        counts: dict[int, int] = {}
        for answer in self.answers:
            counts[answer.status] = counts.get(answer.status, 0) + 1
        if len(self.answers) == 1:
            return str(self.answers[0].status)
        return ", ".join(f"{count} x {status}" for status, count in counts.items())


async def send(edge: Edge, number: int, row: Row) -> Result:
    """The result of the row, without its access log."""
    if row.before is not None:
        await row.before()
    headers = {"user-agent": f"{USER_AGENT}{number}", **row.headers}
    answers = [await ask(edge.url, row.path, method=row.method, headers=headers) for _ in range(row.times)]
    return Result(row, answers, [problem for check in row.checks if (problem := check(answers))])


def check_log(results: Sequence[Result], lines: Sequence[dict[str, Any]]) -> None:
    """Give each result its lines of the access log, and note where they do not say what they should."""
    for number, result in enumerate(results, start=1):
        result.lines = [line for line in lines if line.get("user_agent") == f"{USER_AGENT}{number}"]
        if len(result.lines) != result.row.times:
            result.problems.append(f"{len(result.lines)} lines in the access log, not {result.row.times}")
            continue
        last = result.lines[-1]
        for name, expected in result.row.logged.items():
            if last.get(name) != expected:
                result.problems.append(f"the access log has {name} {last.get(name)!r}, not {expected!r}")


def status(expected: HTTPStatus) -> Check:
    """The last answer has this status."""

    def check(answers: Sequence[Answer]) -> str:
        found = answers[-1].status
        return "" if found == expected else f"status {found}, not {int(expected)}"

    return check


def challenge(*parts: str) -> Check:
    """The last answer has a WWW-Authenticate header with these parts (RFC 6750 section 3)."""

    def check(answers: Sequence[Answer]) -> str:
        found = answers[-1].headers.get("www-authenticate", "")
        missing = [part for part in parts if part not in found]
        return f"WWW-Authenticate is {found!r}, without {', '.join(missing)}" if missing else ""

    return check


def upstream_sees(name: str, *values: str) -> Check:
    """The upstream received the header with exactly these values."""

    def check(answers: Sequence[Answer]) -> str:
        if answers[-1].status != HTTPStatus.OK:
            return "the upstream was not reached"
        found = answers[-1].upstream_values(name)
        return "" if found == list(values) else f"the upstream saw {name} {found}, not {list(values)}"

    return check


def limited_after(passes: int) -> Check:
    """So many requests pass; the others are answered 429 and say when to come back."""

    def check(answers: Sequence[Answer]) -> str:
        statuses = [answer.status for answer in answers]
        expected = [HTTPStatus.OK] * passes + [HTTPStatus.TOO_MANY_REQUESTS] * (len(answers) - passes)
        if statuses != expected:
            return f"statuses {statuses}, not {[int(code) for code in expected]}"
        headers = answers[-1].headers
        remaining, reset = headers.get("x-ratelimit-remaining"), headers.get("x-ratelimit-reset", "")
        if "x-ratelimit-limit" not in headers or remaining != "0" or not reset.isdigit():
            return f"no X-RateLimit-* headers of a reached limit in {sorted(headers)}"
        return ""

    return check
