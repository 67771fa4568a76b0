"""Overload: three times the load that a sidecar can answer, and the first second after it.

An open loop keeps sending, as many independent clients do. A server that answers all in turn answers each
too late; one that sheds answers some in time and the others at once. The same load goes to a sidecar that
does not shed, so that the difference shows.
"""

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.openloop.order import Order, Outcome, write_requests
from bench.openloop.run import perform_on
from bench.tools.goals import Goal, Measured, Rounds
from bench.tools.load import LoadError
from bench.tools.processes import load_core, server_core
from bench.tools.suite import LIMIT_PATH, Setup, serve_sidecar
from bench.transport import Say
from protos.ratelimit_pb2 import RateLimitRequest

GOALS = {
    "answered_p99_of_deadline": Goal(at_most=1.0),
    "refused_p99_of_deadline": Goal(at_most=1.0),
    "ratio_answered_of_capacity": Goal(at_least=0.4),
    "no_answer": Goal(at_most=0),
    "after_p99_of_deadline": Goal(at_most=0.5),
    "after_refused_share": Goal(at_most=0.01),
}
"""Issue 20: what is answered is in time, the rest get a definite answer at once, and a second later all is
well. The deadline is that of the calls, so the figures are parts of it."""

SURGE: Final = 3.0
"""Times what the server can answer."""
AFTER: Final = 0.3
"""The part of it that comes after the surge."""
DEADLINE_SECONDS: Final = 0.25
DESCRIPTORS: Final = 48
"""Descriptors of a call: so many that one generator can send more than one server can answer."""
CALLERS: Final = 500


@dataclass(frozen=True, slots=True)
class OverloadPlan:
    """How long, and how often."""

    rounds: int
    seconds: float


FULL = OverloadPlan(3, 4.0)
QUICK = OverloadPlan(1, 2.0)


def run(*, quick: bool, say: Say) -> Measured:
    """Measure ratelimit in memory under three times its capacity, with shedding and without."""
    return asyncio.run(_run(QUICK if quick else FULL, say))


async def _run(plan: OverloadPlan, say: Say) -> Measured:
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "limits.yaml").write_text(_limits())
        requests = write_requests(folder / "requests", map(_message, range(CALLERS)))
        order = Order(
            "grpc",
            0,
            requests,
            path=LIMIT_PATH,
            connections=64,
            streams=64,
            timeout=f"{round(DEADLINE_SECONDS * 1000)}m",
            seconds=plan.seconds,
        )
        async with AsyncExitStack() as stack:
            ports = {}
            for label, share in (("shedding", 0.25), ("plain", None)):
                settings = {"connections": {"limits": {"shed_after_share": share}}}
                setup = Setup("ratelimit", label, settings)
                sidecar = await stack.enter_async_context(
                    serve_sidecar(folder, setup, server_core(), os.environ)
                )
                ports[label] = sidecar.port
            for number in range(plan.rounds):
                say(f"round {number + 1} of {plan.rounds}")
                await asyncio.to_thread(_round, order, ports, rounds)
    figures = rounds.medians()
    return Measured(figures, rounds.values, headlines=(*GOALS, "plain_answered_of_capacity", "offered_rps"))


def _round(order: Order, ports: dict[str, int], rounds: Rounds) -> None:
    closed = replace(order, port=ports["shedding"], connections=4, streams=4, seconds=1.0, timeout="10S")
    capacity = perform_on(closed, load_core())
    if capacity.failures:
        raise LoadError(f"calls failed: {capacity.failures}")
    rounds.add("capacity_rps", capacity.rps)
    surge = replace(order, per_second=SURGE * capacity.rps)
    rounds.add("offered_rps", SURGE * capacity.rps)
    outcome = perform_on(replace(surge, port=ports["shedding"]), load_core())
    rounds.add("ratio_answered_of_capacity", _in_time(outcome) / order.seconds / capacity.rps)
    rounds.add("answered_p99_of_deadline", outcome.answers.us(99) / 1e6 / DEADLINE_SECONDS)
    rounds.add("refused_p99_of_deadline", outcome.refusals.us(99) / 1e6 / DEADLINE_SECONDS)
    rounds.add("refused_share", outcome.failed / max(1, outcome.calls))
    rounds.add("no_answer", outcome.unfinished)
    after = perform_on(
        replace(
            surge,
            port=ports["shedding"],
            warm_up_per_second=surge.per_second,
            warm_up_seconds=order.seconds,
            per_second=AFTER * capacity.rps,
            seconds=1.0,
        ),
        load_core(),
    )
    rounds.add("after_p99_of_deadline", after.latency.us(99) / 1e6 / DEADLINE_SECONDS)
    rounds.add("after_refused_share", after.failed / max(1, after.calls))
    # Last, since it works on for seconds at what no one waits for any more.
    plain = perform_on(replace(surge, port=ports["plain"]), load_core())
    rounds.add("plain_answered_of_capacity", _in_time(plain) / order.seconds / capacity.rps)


def _in_time(outcome: Outcome) -> int:
    """Return how many calls were answered before their deadline."""
    steps = outcome.answers.histogram.get_recorded_iterator()
    latest = DEADLINE_SECONDS * 1e6
    return sum(int(step.count_added_in_this_iter_step) for step in steps if step.value_iterated_to <= latest)


def _limits() -> str:
    rate = "{unit: second, requests_per_unit: 1000000}"
    lines = [f"  - {{key: key-{number}, rate_limit: {rate}}}\n" for number in range(DESCRIPTORS)]
    return "domain: edge\ndescriptors:\n" + "".join(lines)


def _message(caller: int) -> bytes:
    message = RateLimitRequest(domain="edge")
    for number in range(DESCRIPTORS):
        message.descriptors.add().entries.add(key=f"key-{number}", value=f"caller-{caller}")
    return message.SerializeToString()
