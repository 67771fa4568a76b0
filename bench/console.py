"""The latency of checks while pages of the console are loaded, next to that without.

An authz sidecar decides checks at a constant rate (open loop). In turns, nothing else happens; a process that
asks the sidecar nothing uses the CPU as the console does; and pages of its console are loaded one after the
other, four a second, with an evaluation in the playground every two seconds: more than several people who
watch. The other processes run on the core of the sidecar, which is the worst case. What
starts once, the console and the process that evaluates, has started before.

`ratio_p99` compares pages with nothing else, and `floor_ratio_p99` the other process with nothing else: that
much the kernel's scheduler takes. `ratio_p99_to_floor` is what the sidecar itself adds.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp

from bench.openloop.latency import Latency
from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.edge_requests import Issuer
from bench.tools.goals import Figures, Goal
from bench.tools.load import LoadError
from bench.tools.noop_server import PATH
from bench.tools.other_work import EVALUATED_EVERY, PAGE_SECONDS
from bench.tools.processes import load_core, running, server_core
from bench.tools.suite import Setup, check_of, serve_sidecar, write_files
from bench.transport import Say

GOALS: Final = {"ratio_p99": Goal(at_most=1.05), "ratio_p99_to_floor": Goal(at_most=1.05)}
"""Issue 17: the 99th percentile of checks rises by 5 % at most."""

CALLERS: Final = 100
PAGES: Final = ("", "decisions?limit=200", "configuration", "decisions?outcome=deny", "totals")
QUESTION: Final = "request: {url: /service-50/orders/42}\ncaller: {subject: alice, scopes: [orders:read]}\n"
_SAME_ORIGIN: Final = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class ConsolePlan:
    """How fast, how long, and how often in turns."""

    per_second: int
    seconds: float
    rounds: int


FULL: Final = ConsolePlan(per_second=1_000, seconds=6.0, rounds=7)
QUICK: Final = ConsolePlan(per_second=1_000, seconds=3.0, rounds=3)


@dataclass(frozen=True, slots=True)
class Round:
    """The latency of checks in the turns of one round."""

    quiet: Latency
    floor: Latency
    pages: Latency


@dataclass(slots=True)
class Loaded:
    """The pages that were loaded."""

    seconds: list[float]


def run(*, quick: bool, say: Say) -> Figures:
    """Measure checks without and with pages, in turns."""
    return asyncio.run(_run(QUICK if quick else FULL, say))


async def _run(plan: ConsolePlan, say: Say) -> Figures:
    loaded = Loaded([])
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = Issuer(folder)
        write_files(folder)
        tokens = [issuer.token(f"caller-{number}") for number in range(CALLERS)]
        requests = folder / "requests"
        write_requests(requests, [check_of(token, "/service-50/orders/42") for token in tokens])
        async with serve_sidecar(folder, Setup("authz", "authz"), server_core(), os.environ) as sidecar:
            order = Order("grpc", sidecar.port, requests, path=PATH, connections=4, streams=16,
                          per_second=plan.per_second, seconds=plan.seconds)  # fmt: skip
            async with _client(sidecar.admin.socket) as client:
                await _load(client, "", loaded)  # starts the console
                await _evaluate(client)  # starts the process that evaluates: a second of CPU time, once
                loaded.seconds.clear()
                for number in range(plan.rounds):
                    say(f"round {number + 1} of {plan.rounds}")
                    quiet = await _checks(order)
                    with running([sys.executable, "-m", "bench.tools.other_work"], server_core()):
                        floor = await _checks(order)
                    async with _pages(client, loaded):
                        pages = await _checks(order)
                    rounds.append(Round(quiet.latency, floor.latency, pages.latency))
    return _figures(rounds) | {
        "pages_loaded": float(len(loaded.seconds)),
        "page_ms": median(loaded.seconds) * 1e3,
    }


def _figures(rounds: Sequence[Round]) -> Figures:
    return {
        "ratio_p99": median(one.pages.us(99) / one.quiet.us(99) for one in rounds),
        "floor_ratio_p99": median(one.floor.us(99) / one.quiet.us(99) for one in rounds),
        "ratio_p99_to_floor": median(one.pages.us(99) / one.floor.us(99) for one in rounds),
        "quiet_p99_us": median(one.quiet.us(99) for one in rounds),
        "floor_p99_us": median(one.floor.us(99) for one in rounds),
        "pages_p99_us": median(one.pages.us(99) for one in rounds),
        "quiet_p50_us": median(one.quiet.us(50) for one in rounds),
        "pages_p50_us": median(one.pages.us(50) for one in rounds),
    }


async def _checks(order: Order) -> Outcome:
    outcome = await asyncio.to_thread(perform_on, order, load_core())
    if outcome.failed or outcome.unfinished:
        raise LoadError(f"checks failed: {outcome.failures}, {outcome.unfinished} unfinished")
    return outcome


@asynccontextmanager
async def _client(admin: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(admin))
    async with aiohttp.ClientSession("http://admin", connector=connector) as client:
        yield client


@asynccontextmanager
async def _pages(client: aiohttp.ClientSession, loaded: Loaded) -> AsyncIterator[None]:
    """Load pages during the block."""

    async def work() -> None:
        for number in count():
            await _load(client, PAGES[number % len(PAGES)], loaded)
            if number % EVALUATED_EVERY == 0:
                await _evaluate(client)
            await asyncio.sleep(PAGE_SECONDS)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _load(client: aiohttp.ClientSession, page: str, loaded: Loaded) -> None:
    begun = time.perf_counter()
    path = "/totals" if page == "totals" else f"/console/{page}"
    async with client.get(path) as answer:
        await answer.read()
        if answer.status != 200:
            raise LoadError(f"{path} is a {answer.status}")
    loaded.seconds.append(time.perf_counter() - begun)


async def _evaluate(client: aiohttp.ClientSession) -> None:
    form = {"use": "loaded", "question": QUESTION}
    async with client.post("/console/playground", data=form, headers=_SAME_ORIGIN) as answer:
        if "allow" not in await answer.text():
            raise LoadError("the playground did not explain")
