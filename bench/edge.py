"""The intent of 500 teams with 10,000 routes: the time to check it, and to check it again after one change.

CPU time of one process, since nothing waits: it reads texts, not files.
"""

import time
from datetime import date
from statistics import median
from typing import Final

from bench.tools.estate import large_estate
from bench.tools.goals import Goal, Measured, Rounds
from bench.transport import Say
from edge.intent.estate import EstateReader

GOALS: Final = {"check_cpu_seconds": Goal(at_most=2.5), "recheck_cpu_seconds": Goal(at_most=0.3)}
"""Issue 18: check and build take 5 s at most, and 0.3 s after a change of one team."""

TEAMS: Final = 500
ROUTES_OF_TEAM: Final = 20
CHANGES: Final = 5
TODAY: Final = date(2026, 1, 1)


def run(*, quick: bool, say: Say) -> Measured:
    """Measure both. `quick` measures one round instead of three."""
    rounds = Rounds()
    for number in range(1 if quick else 3):
        say(f"round {number + 1}")
        texts = dict(large_estate(TEAMS, ROUTES_OF_TEAM))
        reader = EstateReader()
        rounds.add("check_cpu_seconds", _seconds(reader, texts))
        again = []
        for change in range(CHANGES):
            texts["services/team-007.yaml"] += f"# {change}\n"
            again.append(_seconds(reader, texts))
        rounds.add("recheck_cpu_seconds", median(again))
    figures = {"routes": float(TEAMS * ROUTES_OF_TEAM), "teams": float(TEAMS), **rounds.medians()}
    return Measured(figures, rounds.values)


def _seconds(reader: EstateReader, texts: dict[str, str]) -> float:
    before = time.process_time()
    reader.read(texts, TODAY)
    return time.process_time() - before
