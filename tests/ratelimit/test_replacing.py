"""Thousands of limits are replaced without holding up a loop: piece by piece, and most of it in a thread."""

import gc
import sys
import weakref
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from common.configfile import parse
from ratelimit.config import compile_limits, load_limits
from ratelimit.digest import ContentDigest
from ratelimit.limiter import Limiter
from ratelimit.rules import CompiledLimits, Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore

RATE = "rate_limit: {unit: second, requests_per_unit: 10}"


def limits_text(number: int, first: int = 0) -> str:
    lines = (f"  - {{key: k, value: v{one}, {RATE}}}\n" for one in range(first, first + number))
    return "domain: d\ndescriptors:\n" + "".join(lines)


def limits_of(text: str) -> CompiledLimits:
    return compile_limits([parse(text)], Options())


def test_loading_takes_a_break_at_every_descriptor_in_each_of_its_stages(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(limits_text(50))
    asked: list[str] = []

    def yield_gil() -> None:
        asked.append(sys._getframe(1).f_code.co_qualname)

    limits = load_limits([tmp_path / "limits.yaml"], Options(), (), yield_gil)
    Stats().counted((rule.path for rule in limits.rules), yield_gil)
    assert {stage for stage in set(asked) if asked.count(stage) >= 50} == {
        "_follow",
        "ContentDigest.add",
        "_Compiler._add_descriptors",
        "_Draft.freeze",
        "Document.let_go",
        "Stats.counted",
    }


def test_garbage_is_not_collected_while_limits_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(limits_text(1))
    collecting: list[bool] = []
    load_limits([tmp_path / "limits.yaml"], Options(), (), lambda: collecting.append(gc.isenabled()))
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "data",
    [None, "a", {}, [], {"a": [1, {"b": "q\"'"}], "c": {}}, [[], {}], {1: True, None: [None, [1.5]]}],
)
def test_the_revision_is_a_hash_of_the_data_as_python_writes_it(data: Any) -> None:
    document = parse("a: 1")
    document.data = data
    digest = ContentDigest()
    digest.add("limits.yaml", document)
    assert digest.revision == sha256(f"limits.yaml\0{data!r}\0".encode()).hexdigest()[:12]


def test_what_was_replaced_is_returned_and_lists_all_its_parts() -> None:
    before = limits_of(f"domain: d\ndescriptors:\n- {{key: a, {RATE}}}\n- {{key: b, value: x, {RATE}}}")
    memory = MemoryStore(lambda: 0)
    limiter = Limiter(before, memory, memory, Stats())
    replaced = limiter.use(limits_of(limits_text(1)))
    parts = set(map(id, replaced.parts()))
    assert {id(rule) for rule in before.rules} <= parts
    assert {id(node) for node in before.domains["d"].children.values()} <= parts
    only = weakref.ref(replaced)
    del replaced
    assert only() is None  # nothing else holds it


class TestCountersThatWereMadeBefore:
    """In a thread, while the loop counts on."""

    def test_rules_that_stay_keep_their_counters(self) -> None:
        stats = Stats()
        stats.keep_rules([("d", "a"), ("d", "b")])
        counted = stats.counted([("d", "a"), ("d", "c")])
        stats.of_rule(("d", "a")).arrived(3)
        stats.of_rule(("d", "b")).arrived(5)
        stats.keep_rules([("d", "a"), ("d", "c")], counted)
        assert stats.of_rule(("d", "a")).total_hits == 3
        stats.keep_rules([("d", "b")], stats.counted([("d", "b")]))
        assert stats.of_rule(("d", "b")).total_hits == 5

    def test_what_a_request_had_counted_meanwhile_is_kept(self) -> None:
        stats = Stats()
        counted = stats.counted([("d", "a", "x"), ("d", "a", "y")])
        stats.of_request(("d", "a", "x")).arrived(4)
        stats.keep_rules([("d", "a", "x"), ("d", "a", "y")], counted)
        assert stats.of_rule(("d", "a", "x")).total_hits == 4
        assert stats.of_request(("d", "a", "x")) is stats.of_rule(("d", "a", "x"))
        assert stats.of_rule(("d", "a", "y")).total_hits == 0

    def test_those_made_before_other_rules_served_are_not_used(self) -> None:
        stats = Stats()
        old = stats.counted([("d", "a")])
        stats.keep_rules([("d", "a")])
        stats.of_rule(("d", "a")).arrived(2)
        stats.keep_rules([("d", "a")], old)
        assert stats.of_rule(("d", "a")).total_hits == 2


def test_numbers_in_base_60_are_found_in_every_piece_of_a_long_text() -> None:
    many = limits_text(2_000)
    text = many + "  - {key: z, rate_limit: {unit: second, requests_per_unit: 1:30}}\n"
    with pytest.raises(Exception, match="base 60; write 90"):
        limits_of(text)
    assert len(limits_of(many).rules) == 2_000
