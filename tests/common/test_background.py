import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from authz.policy.compile.load import load_policy, parse_policy
from common.background import BREAK_SECONDS, WORK_SECONDS, GilYielder, release
from sidecars.observability.process_metrics import is_compiled


class Clock:
    """A clock that moves only when the test sets it, and records sleeps."""

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


def test_after_a_break_the_work_is_counted_from_zero() -> None:
    clock = Clock()
    breaks = GilYielder(clock, clock.sleep)
    clock.now += 10 * WORK_SECONDS
    breaks.yield_gil()
    breaks.yield_gil()
    assert clock.slept == [BREAK_SECONDS]


def test_loading_may_take_a_break_at_every_rule_in_each_of_its_stages(tmp_path: Path) -> None:
    """A stage without pauses would block the event loop for the time of all its rules."""
    text = "rules:\n" + "".join(
        f"  - {{name: rule-{number}, paths: [/{number}], allow: anyone}}\n" for number in range(50)
    )
    (tmp_path / "policy.yaml").write_text(text)
    asked: list[str] = []

    def yield_gil() -> None:
        asked.append(sys._getframe(1).f_code.co_qualname)

    assert load_policy([tmp_path / "policy.yaml"], yield_gil).revision == parse_policy(text).revision
    in_frames = {"Index.compile"} if not is_compiled() else set()  # a compiled function has no frame
    assert {stage for stage in set(asked) if asked.count(stage) >= 50} == in_frames | {
        "_follow",
        "_doubtful",
        "escapes",
        "RuleConfig._one_effect",
        "compile_policy",
        "_Linter.__init__",
        "lint",
        "_impossible",
        "_revision",
        "Document.let_go",
        "release",
    }


class Node:
    """A node of a tree, in which each node owns the next."""

    alive = 0

    def __init__(self, below: "Node | None" = None) -> None:
        self.below = below
        Node.alive += 1

    def __del__(self) -> None:
        Node.alive -= 1

    def parts(self) -> Iterator[object]:
        node = self.below
        while node is not None:
            yield node
            node = node.below


def chain(length: int) -> Node:
    node = Node()
    for _ in range(length - 1):
        node = Node(node)
    return node


def test_a_released_object_is_freed_part_by_part() -> None:
    counts: list[int] = []
    roots = [chain(50)]
    release(roots, lambda: counts.append(Node.alive))
    assert (roots, Node.alive) == ([], 0)
    assert max(one - other for one, other in pairwise(counts)) == 2  # the root and its first part


def test_a_released_object_stays_whole_while_it_is_in_use() -> None:
    """A call that waits for a credential uses the policy that it started with."""
    root = chain(50)
    retiring = threading.Thread(target=release, args=([root], lambda: None), kwargs={"wait_seconds": 30.0})
    retiring.start()
    retiring.join(0.1)
    assert (retiring.is_alive(), len([*root.parts()]), Node.alive) == (True, 49, 50)
    del root
    retiring.join(30)
    assert (retiring.is_alive(), Node.alive) == (False, 0)


def test_a_released_object_that_stays_in_use_is_not_waited_for_without_end() -> None:
    root = chain(3)
    release([root], lambda: None, wait_seconds=0.05)
    assert (len([*root.parts()]), Node.alive) == (2, 3)
