"""`python -m bench overload` measures what it names."""

import pytest

from bench import overload
from bench.openloop.schedule import ConstantRate, InTurn
from bench.overload import GOALS, OverloadPlan
from bench.tools.goals import Measured

TINY = OverloadPlan(1, 0.3)


async def test_every_goal_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "CALLERS", 5)
    measured = await overload._run(TINY, lambda _: None)
    assert isinstance(measured, Measured)
    assert measured.figures.keys() >= GOALS.keys()
    assert measured.figures["offered_rps"] == pytest.approx(3 * float(measured.figures["capacity_rps"] or 0))


def test_a_schedule_changes_its_rate_and_drops_what_was_not_started() -> None:
    schedule = InTurn(ConstantRate(0.0, 100.0), ConstantRate(1.0, 10.0), 1.0)
    assert [schedule.take(0.5) for _ in range(3)] == [0.0, 0.01, 0.02]
    assert schedule.due(0.5) == 48
    assert schedule.due(1.0) == 1
    assert [schedule.take(2.0) for _ in range(3)] == [1.0, 1.1, 1.2]
    assert schedule.next_at(2.0) == pytest.approx(1.3)
