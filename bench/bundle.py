"""A bundle of 10,000 routes of 500 teams is swapped under load: how long the sidecars do not answer.

The suite runs as users run it: one process, bundles from an HTTP server, calls of authz and ratelimit that
arrive whether or not it answers. Windows of load with a swap are followed by as many without one, which show
what the machine itself adds. `computed` is the longest part of a wait in which the suite itself computed.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.bundle_edge import Bundles, BundleServer, PullingSuite, pulling_suite
from bench.tools.edge_requests import Issuer
from bench.tools.goals import Goal, Measured, Rounds
from bench.tools.load import LoadError
from bench.tools.noop_server import PATH as CHECK_PATH
from bench.tools.processes import load_core, server_core
from bench.tools.stall_probe import probe_on
from bench.tools.suite import LIMIT_PATH, call, check_of
from bench.transport import Say
from protos.authz_pb2 import CheckRequest, CheckResponse
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse

GOALS: Final = {"swap_stall_ms": Goal(at_most=5), "swap_computed_ms": Goal(at_most=5)}
"""Issue 18: a bundle of 10,000 routes is swapped under load with a stall of 5 ms at most."""

CALLS_A_SECOND: Final = 500
"""Calls to each sidecar: one of the two is called each millisecond, so a stall is seen within 1 ms."""

LEAD_SECONDS: Final = 1.0
"""From the start of the load to the publication of a bundle."""


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """The size of the estate, and how often and how long it is measured."""

    teams: int
    routes_of_team: int
    swaps: int
    seconds: float
    """The length of a window of load: on a quiet machine a swap takes one, on a busy one several."""


FULL: Final = BundlePlan(teams=500, routes_of_team=20, swaps=5, seconds=10.0)
QUICK: Final = BundlePlan(teams=20, routes_of_team=20, swaps=1, seconds=3.0)
MOST_WINDOWS: Final = 30


def run(*, quick: bool, say: Say) -> Measured:
    """Measure swaps. `quick` measures one of a small estate instead of five of a large one."""
    return asyncio.run(_run(QUICK if quick else FULL, say))


async def _run(plan: BundlePlan, say: Say) -> Measured:
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as name:
        folder, server = Path(name), BundleServer()
        token = Issuer(folder).token("alice")
        bundles = Bundles((folder / "keys.json").read_bytes(), plan.teams, plan.routes_of_team)
        (folder / "release.pem").write_bytes(bundles.public_pem())
        say(f"the bundle of {plan.teams} teams")
        _, archive = await asyncio.to_thread(bundles.next)
        server.publish(archive)
        with server.serving():
            async with pulling_suite(folder, server, server_core()) as suite:
                requests = _requests(folder, token)
                _check_answers(suite, token)
                for number in range(plan.swaps):
                    say(f"swap {number + 1} of {plan.swaps}")
                    revision, archive = await asyncio.to_thread(bundles.next)
                    load = _Load(suite, requests, plan.seconds)
                    seconds, seen = await asyncio.to_thread(_swapped, load, server, revision, archive)
                    _add(rounds, "swap", seen)
                    _add(rounds, "idle", [await asyncio.to_thread(load.run) for _ in seen])
                    rounds.add("swap_seconds", seconds)
        rounds.ratio("ratio_stall", "swap_stall_ms", "idle_stall_ms")
    figures = {
        "routes": float(plan.teams * plan.routes_of_team),
        "bundle_kb": len(archive) / 1024,
        **rounds.medians(),
        "swap_stall_ms_worst": max(rounds.values["swap_stall_ms"]),
        "idle_stall_ms_worst": max(rounds.values["idle_stall_ms"]),
    }
    return Measured(figures, rounds.values)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What callers saw in one window."""

    outcomes: Mapping[str, Outcome]
    """The open-loop load by sidecar."""
    longest_wait_ms: float
    longest_computed_ms: float


class _Load:
    """Open-loop calls of both sidecars and a probe of the loop, each from a process of its own."""

    def __init__(self, suite: PullingSuite, requests: Mapping[str, Path], seconds: float) -> None:
        self._pid = suite.pid
        places = {"authz": (suite.authz, CHECK_PATH), "ratelimit": (suite.ratelimit, LIMIT_PATH)}
        self._orders = {
            name: Order(
                "grpc",
                port,
                requests[name],
                path=path,
                connections=2,
                streams=16,
                per_second=CALLS_A_SECOND,
                seconds=seconds,
            )
            for name, (port, path) in places.items()
        }

    def run(self, during_load: Callable[[], None] = lambda: None) -> _Seen:
        """Return what callers saw; `during_load` runs during the load. Raises LoadError if a call fails."""
        core, orders = load_core(), self._orders
        with ThreadPoolExecutor(len(orders) + 1) as threads:
            probing = threads.submit(probe_on, self._pid, list(orders.values()), core)
            loading = {name: threads.submit(perform_on, order, core) for name, order in orders.items()}
            during_load()
            outcomes = {name: future.result() for name, future in loading.items()}
            waited, computed = probing.result()
        for name, outcome in outcomes.items():
            if outcome.failures:
                raise LoadError(f"{name}: calls failed: {outcome.failures}")
        waits = (waited, *(outcome.latency.us(100) / 1000 for outcome in outcomes.values()))
        return _Seen(outcomes, max(waits), computed)


def _swapped(load: _Load, server: BundleServer, revision: str, archive: bytes) -> tuple[float, list[_Seen]]:
    """Return the seconds from the publication of a bundle until it serves, and what callers saw during it."""
    published: list[float] = []

    def publish() -> None:
        time.sleep(LEAD_SECONDS)
        published.append(time.perf_counter())
        server.publish(archive)

    seen = [load.run(publish)]
    while revision not in server.served_since:
        if len(seen) == MOST_WINDOWS:
            raise LoadError(f"the bundle did not serve within {MOST_WINDOWS} windows")
        seen.append(load.run())
    return server.served_since[revision] - published[0], seen


def _add(rounds: Rounds, what: str, windows: Sequence[_Seen]) -> None:
    for name in windows[0].outcomes:
        first, *others = (seen.outcomes[name].latency for seen in windows)
        rounds.add(f"{what}_{name}_p99_us", first.merged(*others).us(99))
    rounds.add(f"{what}_stall_ms", max(seen.longest_wait_ms for seen in windows))
    rounds.add(f"{what}_computed_ms", max(seen.longest_computed_ms for seen in windows))


def _requests(folder: Path, token: str) -> dict[str, Path]:
    return {
        "authz": write_requests(folder / "authz.requests", [_check(token)]),
        "ratelimit": write_requests(folder / "ratelimit.requests", [_limit()]),
    }


def _check(token: str) -> bytes:
    message = CheckRequest.FromString(check_of(token, "/team-007/files-0/7"))
    message.attributes.context_extensions["edge_route"] = "team-007.files-0"
    return message.SerializeToString()


def _limit() -> bytes:
    message = RateLimitRequest(domain="edge")
    for pairs in (
        (("service", "team-007"), ("tier", "gold")),
        (("service", "team-007"), ("route", "files-0"), ("limit", "1"), ("remote_address", "192.0.2.1")),
    ):
        entries = message.descriptors.add().entries
        for key, value in pairs:
            entries.add(key=key, value=value)
    return message.SerializeToString()


def _check_answers(suite: PullingSuite, token: str) -> None:
    """Raise LoadError unless the bundle decides: what it does not cover is answered faster."""
    checked = CheckResponse.FromString(call(f"127.0.0.1:{suite.authz}", CHECK_PATH, _check(token)))
    limited = RateLimitResponse.FromString(call(f"127.0.0.1:{suite.ratelimit}", LIMIT_PATH, _limit()))
    if checked.status.code:
        raise LoadError(f"authz refused: {checked}")
    if any(not status.HasField("current_limit") for status in limited.statuses):
        raise LoadError(f"ratelimit has no limit for the calls: {limited}")
