"""A request, its expected result, and whether it had that result."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.edge import Edge

USER_AGENT: Final = "edge-sidecars-demo/"
"""Followed by the number of the row, which connects an access log line with its row."""

MAX_REVOCATION_SECONDS: Final = 1.0
"""How long another sidecar may accept a revoked credential."""
ASK_AGAIN_SECONDS: Final = 0.02
"""Polling interval for both: `examples/limits/edge.yaml` grants a client 100 requests a second."""

Check = Callable[[Sequence[EdgeResponse]], str]
"""Returns what is wrong with the responses to a row's requests; empty if nothing is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request (sent `times` times, one after the other) and its expected result."""

    name: str
    should: str
    path: str
    checks: tuple[Check, ...]
    logged: Mapping[str, Any]
    """The fields that the last access log line must have."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    before: Callable[[], Awaitable[object]] | None = None
    everywhere: bool = False
    """Whether it is sent to both authz sidecars, one after the other."""
    revoke: Callable[[], Awaitable[float]] | None = None
    """Revokes the credential and returns the start time (monotonic), to measure when both refuse it."""
    skipped: str = ""
    """Why it is not sent; empty if it is."""


@dataclass(slots=True)
class RowResult:
    """The result of a row: its responses, its access log lines, and everything wrong with them."""

    row: Row
    answers: Sequence[EdgeResponse]
    problems: list[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    refused_after_seconds: float | None = None

    @property
    def did(self) -> str:
        """The statuses, such as `200` or `5 x 200, 3 x 429`."""
        if self.row.skipped:
            return f"skipped: {self.row.skipped}"
        if self.refused_after_seconds is not None:
            return f"{self._statuses}, {self.refused_after_seconds * 1000:.0f} ms after its revocation"
        return self._statuses

    @property
    def _statuses(self) -> str:
        counts: dict[int, int] = {}
        for answer in self.answers:
            counts[answer.status] = counts.get(answer.status, 0) + 1
        if len(self.answers) == 1:
            return str(self.answers[0].status)
        return ", ".join(f"{count} x {status}" for status, count in counts.items())


async def send(edge: Edge, number: int, row: Row) -> RowResult:
    """Send the requests of the row; return the result without its access log lines."""
    if row.skipped:
        return RowResult(row, (), [])
    if row.before is not None:
        await row.before()
    urls = (edge.url, edge.other_url) if row.everywhere else (edge.url,)
    seconds = None
    if row.revoke is not None:
        seconds = await _seconds_until_refused(row, row.revoke, urls)
    headers = {"user-agent": f"{USER_AGENT}{number}", **row.headers}
    answers = [
        await ask(url, row.path, method=row.method, headers=headers) for _ in range(row.times) for url in urls
    ]
    problems = [problem for check in row.checks if (problem := check(answers))]
    if seconds is not None and seconds > MAX_REVOCATION_SECONDS:
        problems.append(f"refused only {seconds:.1f} s after its revocation")
    return RowResult(row, answers, problems, refused_after_seconds=seconds)


async def _seconds_until_refused(
    row: Row, revoke: Callable[[], Awaitable[float]], urls: Sequence[str]
) -> float:
    """Return the seconds from the start of the revocation until all `urls` refuse the row's request."""

    async def refused(url: str) -> None:
        headers = {"user-agent": f"{USER_AGENT}until-refused", **row.headers}
        while True:
            answer = await ask(url, row.path, method=row.method, headers=headers)
            if answer.status == HTTPStatus.UNAUTHORIZED:
                return
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    began = await revoke()
    # A delay is a problem of the row; the demo does not wait forever.
    with suppress(TimeoutError):
        async with asyncio.timeout(5 * MAX_REVOCATION_SECONDS):
            await asyncio.gather(*map(refused, urls))
    return time.monotonic() - began


def is_of_a_row(line: Mapping[str, Any]) -> bool:
    """Return whether the access log line is from a row, not from a readiness request."""
    return str(line.get("user_agent", "")).removeprefix(USER_AGENT).isdigit()


def check_log(results: Sequence[RowResult], lines: Sequence[dict[str, Any]]) -> None:
    """Add the access log lines to each result, and note wrong ones."""
    for number, result in enumerate(results, start=1):
        result.lines = [line for line in lines if line.get("user_agent") == f"{USER_AGENT}{number}"]
        if len(result.lines) != len(result.answers):
            result.problems.append(f"{len(result.lines)} lines in the access log, not {len(result.answers)}")
        if not result.lines or result.problems:
            continue
        last = result.lines[-1]
        for name, expected in result.row.logged.items():
            if last.get(name) != expected:
                result.problems.append(f"the access log has {name} {last.get(name)!r}, not {expected!r}")


def status(expected: HTTPStatus) -> Check:
    """Check that the last response has this status."""

    def check(answers: Sequence[EdgeResponse]) -> str:
        found = answers[-1].status
        return "" if found == expected else f"status {found}, not {int(expected)}"

    return check


def every_status(expected: HTTPStatus) -> Check:
    """Check that every response has this status."""

    def check(answers: Sequence[EdgeResponse]) -> str:
        found = [answer.status for answer in answers]
        return "" if set(found) == {expected} else f"statuses {found}, not all {int(expected)}"

    return check


def challenge(*parts: str) -> Check:
    """Check that the last response has a WWW-Authenticate header with these parts (RFC 6750 section 3)."""

    def check(answers: Sequence[EdgeResponse]) -> str:
        found = answers[-1].headers.get("www-authenticate", "")
        missing = [part for part in parts if part not in found]
        return f"WWW-Authenticate is {found!r}, without {', '.join(missing)}" if missing else ""

    return check


def upstream_sees(name: str, *values: str) -> Check:
    """Check that the upstream received the header with exactly these values."""

    def check(answers: Sequence[EdgeResponse]) -> str:
        if answers[-1].status != HTTPStatus.OK:
            return "the upstream was not reached"
        found = answers[-1].upstream_values(name)
        return "" if found == list(values) else f"the upstream saw {name} {found}, not {list(values)}"

    return check


def limited_after(passes: int) -> Check:
    """Check that the limited number of requests pass; the others get 429 with a time to retry."""

    def check(answers: Sequence[EdgeResponse]) -> str:
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
