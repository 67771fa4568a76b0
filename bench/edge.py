"""The intent of 500 teams with 10,000 routes: the time to check and build it, and again after one change.

CPU time of one process, since nothing waits: it reads texts and makes bytes, not files.
"""

import time
from collections.abc import Callable
from datetime import date
from statistics import median
from typing import Final, TypeVar

from bench.tools.estate import large_estate
from bench.tools.goals import Goal, Measured, Rounds
from bench.transport import Say
from edge.build.build import Builder
from edge.intent.estate import EstateReader

GOALS: Final = {
    "check_cpu_seconds": Goal(at_most=2.5),
    "recheck_cpu_seconds": Goal(at_most=0.3),
    "build_cpu_seconds": Goal(at_most=2.5),
    "rebuild_cpu_seconds": Goal(at_most=0.3),
}
"""Issue 18: check and build take 5 s, and 0.3 s after a change of one team; the last figure has both."""

TEAMS: Final = 500
ROUTES_OF_TEAM: Final = 20
CHANGES: Final = 5
TODAY: Final = date(2026, 1, 1)

Result = TypeVar("Result")


def run(*, quick: bool, say: Say) -> Measured:
    """Measure check and build. `quick` measures one round instead of three."""
    rounds = Rounds()
    for number in range(1 if quick else 3):
        say(f"round {number + 1}")
        texts = dict(large_estate(TEAMS, ROUTES_OF_TEAM))
        reader, builder = EstateReader(), Builder()
        check_seconds, estate = _timed(lambda: reader.read(texts, TODAY))  # noqa: B023 - called at once
        build_seconds, _ = _timed(lambda: builder.build(estate))  # noqa: B023
        rounds.add("check_cpu_seconds", check_seconds)
        rounds.add("build_cpu_seconds", build_seconds)
        rechecks, rebuilds = [], []
        for change in range(CHANGES):
            old, new = f"latency: {300 + change}ms", f"latency: {301 + change}ms"
            texts["services/team-007.yaml"] = texts["services/team-007.yaml"].replace(old, new)
            check_seconds, estate = _timed(lambda: reader.read(texts, TODAY))  # noqa: B023
            build_seconds, _ = _timed(lambda: builder.build(estate))  # noqa: B023
            rechecks.append(check_seconds)
            rebuilds.append(check_seconds + build_seconds)
        rounds.add("recheck_cpu_seconds", median(rechecks))
        rounds.add("rebuild_cpu_seconds", median(rebuilds))
    figures = {"routes": float(TEAMS * ROUTES_OF_TEAM), "teams": float(TEAMS), **rounds.medians()}
    return Measured(figures, rounds.values)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds of `work`, and its result."""
    before = time.process_time()
    result = work()
    return time.process_time() - before, result
