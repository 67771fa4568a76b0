import sys
from pathlib import Path

from authz.policy.compile.load import load_policy, parse_policy
from common.background import BREAK_SECONDS, WORK_SECONDS, Breaks


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
    breaks = Breaks(clock, clock.sleep)
    breaks.breathe()
    clock.now += WORK_SECONDS / 2
    breaks.breathe()
    assert clock.slept == []
    clock.now += WORK_SECONDS / 2
    breaks.breathe()
    assert clock.slept == [BREAK_SECONDS]


def test_after_a_break_the_work_counts_from_anew() -> None:
    clock = Clock()
    breaks = Breaks(clock, clock.sleep)
    clock.now += 10 * WORK_SECONDS
    breaks.breathe()
    breaks.breathe()
    assert clock.slept == [BREAK_SECONDS]


def test_loading_may_take_a_break_at_every_rule_in_each_of_its_stages(tmp_path: Path) -> None:
    """A stage without breaks would hold up the loop beside it for as long as all of its rules take."""
    text = "rules:\n" + "".join(
        f"  - {{name: rule-{number}, paths: [/{number}], allow: anyone}}\n" for number in range(50)
    )
    (tmp_path / "policy.yaml").write_text(text)
    asked: list[str] = []

    def breathe() -> None:
        asked.append(sys._getframe(1).f_code.co_qualname)

    assert load_policy([tmp_path / "policy.yaml"], breathe).revision == parse_policy(text).revision
    assert {stage for stage in set(asked) if asked.count(stage) >= 50} == {
        "_follow",
        "_doubtful",
        "escapes",
        "RuleConfig._one_effect",
        "compile_policy",
        "Index.compile",
        "Index.take_apart",
        "_Reviewer.__init__",
        "review",
        "_impossible",
        "_revision",
        "Document.let_go",
        "_let_go",
    }
