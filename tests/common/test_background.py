import sys
from pathlib import Path

from authz.policy.compile.load import load_policy, parse_policy
from common.background import BREAK_SECONDS, WORK_SECONDS, GilYielder


class Clock:
    """Stands still unless it is told otherwise; remembers who slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_break_comes_once_there_was_enough_work() -> None:
    clock = Clock()
    breaks = GilYielder(clock, clock.sleep)
    breaks.yield_gil()
    clock.now += WORK_SECONDS / 2
    breaks.yield_gil()
    assert clock.slept == []
    clock.now += WORK_SECONDS / 2
    breaks.yield_gil()
    assert clock.slept == [BREAK_SECONDS]


def test_after_a_break_the_work_counts_from_anew() -> None:
    clock = Clock()
    breaks = GilYielder(clock, clock.sleep)
    clock.now += 10 * WORK_SECONDS
    breaks.yield_gil()
    breaks.yield_gil()
    assert clock.slept == [BREAK_SECONDS]


def test_loading_may_take_a_break_at_every_rule_in_each_of_its_stages(tmp_path: Path) -> None:
    """A stage without breaks would hold up the loop for as long as all of its rules take."""
    text = "rules:\n" + "".join(
        f"  - {{name: rule-{number}, paths: [/{number}], allow: anyone}}\n" for number in range(50)
    )
    (tmp_path / "policy.yaml").write_text(text)
    asked: list[str] = []

    def yield_gil() -> None:
        asked.append(sys._getframe(1).f_code.co_qualname)

    assert load_policy([tmp_path / "policy.yaml"], yield_gil).revision == parse_policy(text).revision
    assert {stage for stage in set(asked) if asked.count(stage) >= 50} == {
        "_follow",
        "_doubtful",
        "escapes",
        "RuleConfig._one_effect",
        "compile_policy",
        "Index.compile",
        "Index.release",
        "_Linter.__init__",
        "lint",
        "_impossible",
        "_revision",
        "Document.let_go",
        "_let_go",
    }
