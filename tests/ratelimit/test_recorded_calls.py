"""Calls of an access log: what is read of a record, their order, and the bounds of what is counted."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ratelimit.config import load_limits
from ratelimit.plan import Modes
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import CompiledLimits, Options, Unit
from ratelimit.tools import simulate as simulation
from ratelimit.tools import suggest as suggestion
from ratelimit.tools.recorded import RecordedCall, Skipped, call_in, in_order
from ratelimit.tools.simulate import OTHERS, decisions, simulate
from ratelimit.tools.suggest import percentile, refused_share, suggest

TIME = "2026-01-01T00:00:00.000001Z"
AT_US = 1_767_225_600_000_001


def recorded(*descriptors: Any, **more: Any) -> dict[str, Any]:
    return {"time": TIME, "ratelimit_domain": "d", "ratelimit_descriptors": list(descriptors), **more}


def call(at_us: int, value: str = "1", hits: int = 0) -> RecordedCall:
    return RecordedCall(at_us, LimitRequest("d", [Descriptor((("a", value),))], hits), None)


@pytest.fixture
def limits(tmp_path: Path) -> CompiledLimits:
    file = tmp_path / "limits.yaml"
    file.write_text("domain: d\ndescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 1}}]\n")
    return load_limits([file], Options())


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        ({"entries": ["a=1", "b=x=y"]}, Descriptor((("a", "1"), ("b", "x=y")))),
        ({"entries": ["a="], "hitsAddend": 0}, Descriptor((("a", ""),), 0)),
        ({"entries": ["a=1"], "hitsAddend": -3}, Descriptor((("a", "1"),), 3, refund=True)),
        (
            {"entries": ["a=1"], "limit": "requests_per_unit:5 unit:HOUR unit_multiplier:{value:2}"},
            Descriptor((("a", "1"),), override=Override(5, Unit.HOUR, 2)),
        ),
        ({"entries": ["a=1"], "limit": "unit:DAY"}, Descriptor((("a", "1"),), override=Override(0, 4))),
    ],
)
def test_a_descriptor_is_read_as_it_was_sent(descriptor: Any, expected: Descriptor) -> None:
    found = call_in(recorded(descriptor, ratelimit_outcome="over_limit", ratelimit_hits=2))
    assert found == RecordedCall(AT_US, LimitRequest("d", [expected], 2), refused=True)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, Skipped.NO_TIME),
        ({"time": "yesterday"}, Skipped.NO_TIME),
        ({"time": "2026-01-01"}, Skipped.NO_TIME),
        ({"time": "1969-12-31T23:59:59Z"}, Skipped.NO_TIME),
        ({"time": "9999-01-01T00:00:00Z"}, Skipped.NO_TIME),
        ({"time": TIME}, Skipped.NO_DOMAIN),
        ({"time": TIME, "ratelimit_domain": 7}, Skipped.NO_DOMAIN),
        (recorded(), Skipped.NO_DESCRIPTORS),
        ({"time": TIME, "ratelimit_domain": "d", "ratelimit_descriptors": 7}, Skipped.UNREADABLE),
        (recorded("a=1"), Skipped.UNREADABLE),
        (recorded({"entries": ["a"]}), Skipped.UNREADABLE),
        (recorded({"entries": ["a=1"], "limit": "unit:UNKNOWN"}), Skipped.UNREADABLE),
        (recorded({"entries": [7]}), Skipped.UNREADABLE),
        (recorded({"entries": ["a=1"]}, ratelimit_hits=[]), Skipped.UNREADABLE),
        (recorded({"entries": ["a=1"]}, ratelimit_hits=float("inf")), Skipped.UNREADABLE),
    ],
)
def test_a_record_that_is_no_call_says_why(record: Any, reason: Skipped) -> None:
    assert call_in(record) is reason


def test_calls_come_in_the_order_of_their_times() -> None:
    found = list(in_order(map(call, (3, 1, 2, 9, 8, 7, 4)), most=2))
    assert [one.at_us for one in found] == [1, 2, 3, 7, 7, 8, 9]  # 4 comes too late


def test_calls_beyond_the_keys_that_are_kept_are_counted_together(
    limits: CompiledLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "MAX_KEYS", 2)
    found = simulate([call(1, value) for value in "aabbccdd"], limits, Modes())
    assert set(found.keys) == {("d.a", "a=a"), ("d.a", "a=b"), OTHERS}
    assert (found.keys[OTHERS].calls, found.keys[OTHERS].refused) == (4, 2)
    assert (found.calls, found.refused) == (8, 4)


def test_dropped_buckets_are_counted(limits: CompiledLimits) -> None:
    assert simulate([call(1, value) for value in "abc"], limits, Modes(), max_buckets=1).evicted == 2


def loaded(tmp_path: Path, descriptors: str) -> CompiledLimits:
    file = tmp_path / "other.yaml"
    file.write_text(f"domain: d\ndescriptors: [{descriptors}]\n")
    return load_limits([file], Options())


def test_a_ban_ends_at_its_time(tmp_path: Path) -> None:
    limits = loaded(
        tmp_path,
        "{key: a, rate_limit: {unit: minute, requests_per_unit: 1, ban: {after: 1, within: 1s, for: 10m}}}",
    )
    seconds = (0, 1, 2, 300, 602, 603)
    found = [
        (decision.over_limit, decision.failure)
        for _, decision, _ in decisions([call(at * 1_000_000) for at in seconds], limits, Modes())
        if decision is not None
    ]
    assert found == [(False, ""), (True, ""), (True, "banned"), (True, "banned"), (False, ""), (True, "")]


def test_a_request_gives_its_slot_back_when_it_has_ended(tmp_path: Path) -> None:
    limits = loaded(tmp_path, "{key: a, rate_limit: {concurrency: 1, release_after: 10s}}")
    recorded_at = [(0, 500), (400, 100), (501, None), (9_000, 10), (10_600, 10)]
    calls = [
        call(at * 1_000, f"id{at}")._replace(duration_us=None if took is None else took * 1_000)
        for at, took in recorded_at
    ]
    found = [decision.over_limit for _, decision, _ in decisions(calls, limits, Modes()) if decision]
    assert found == [False, True, False, True, False]


def test_the_key_of_a_concurrency_limit_is_without_the_id_of_the_request(tmp_path: Path) -> None:
    limits = loaded(tmp_path, "{key: s, descriptors: [{key: id, rate_limit: {concurrency: 1}}]}")
    calls = [
        RecordedCall(at, LimitRequest("d", [Descriptor((("s", "alice"), ("id", f"{at}")))]), None)
        for at in (1, 2)
    ]
    found = simulate(calls, limits, Modes())
    assert {key: (one.calls, one.refused) for key, one in found.keys.items()} == {
        ("d.s.id", "s=alice"): (2, 1)
    }


def test_one_request_may_take_slots_for_two_ids(tmp_path: Path) -> None:
    limits = loaded(tmp_path, "{key: a, rate_limit: {concurrency: 2}}")
    both = LimitRequest("d", [Descriptor((("a", "1"),)), Descriptor((("a", "2"),))])
    calls = [RecordedCall(at, both, None, 5) for at in (1, 7, 13)]
    assert not any(one.over_limit for _, one, _ in decisions(calls, limits, Modes()) if one)


@pytest.mark.parametrize(("duration", "read"), [(7, 7), (-1, None), ("7", None), (2**60, None)])
def test_the_duration_of_a_request_is_read(duration: Any, read: int | None) -> None:
    found = call_in(recorded({"entries": ["a=1"]}, duration_us=duration))
    assert isinstance(found, RecordedCall)
    assert found.duration_us == read


def test_a_request_that_ratelimit_refuses_to_read_is_counted(limits: CompiledLimits) -> None:
    many = RecordedCall(1, LimitRequest("d", [Descriptor((("a", "1"),))] * 1_000), None)
    found = simulate([many], limits, Modes())
    assert (found.calls, found.invalid) == (1, 1)


def test_hits_of_too_many_keys_are_left_out_of_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestion, "MAX_KEYS", 1)
    found = {one.unit: one for one in suggest([call(1, "a", 3), call(2, "b", 5), call(3, "a")])}
    assert (found[Unit.SECOND].most.limit, found[Unit.SECOND].left_out) == (4, 5)


def test_a_descriptor_without_entries_suggests_nothing() -> None:
    assert suggest([RecordedCall(1, LimitRequest("d", [Descriptor(())]), None)]) == []


def test_percentiles_and_what_they_refuse() -> None:
    seen = Counter({1: 98, 10: 1, 100: 1})
    assert [percentile(seen, share) for share in (0.5, 0.98, 0.99, 1.0)] == [1, 1, 10, 100]
    assert refused_share(seen, 10) == 90 / 208
    assert refused_share(seen, 100) == 0.0
    assert refused_share(Counter(), 1) == 0.0
