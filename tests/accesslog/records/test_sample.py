from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog.records.sample import Sampling, is_notable, keeps


def never_asked() -> float:
    raise AssertionError("chance has no say where there is an id")


def ok(**fields: Any) -> dict[str, Any]:
    return {"code": 200, **fields}


@given(st.text(min_size=1), st.floats(0, 1))
def test_the_request_id_alone_decides(request_id: str, rate: float) -> None:
    first = keeps(Sampling(rate), ok(request_id=request_id), never_asked)
    second = keeps(Sampling(rate), ok(request_id=request_id, path="/other"), never_asked)
    assert first == second


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_what_a_low_rate_keeps_a_higher_one_keeps_too(request_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if keeps(Sampling(low), ok(request_id=request_id), never_asked):
        assert keeps(Sampling(high), ok(request_id=request_id), never_asked)


def test_the_share_kept_is_the_rate() -> None:
    records = [
        ok(request_id=str(UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128))) for n in range(20_000)
    ]
    kept = sum(keeps(Sampling(0.1), record, never_asked) for record in records)
    assert 1_800 < kept < 2_200


def test_another_system_can_tell_what_was_kept() -> None:
    """The documented rule: CRC-32 of the id is below rate times 2**32."""
    for number in range(100):
        request_id = f"id-{number}"
        expected = crc32(request_id.encode()) < 0.5 * 2**32
        assert keeps(Sampling(0.5), ok(request_id=request_id), never_asked) is expected


def test_a_record_kept_by_sampling_carries_its_rate() -> None:
    record = ok(request_id="id-1")
    assert keeps(Sampling(0.99), record, never_asked)
    assert record["sample_rate"] == 0.99


def test_a_rate_that_envoy_stated_is_multiplied() -> None:
    record = ok(request_id="id-1", envoy_sample_rate=0.5)
    assert keeps(Sampling(0.98), record, never_asked)
    assert (record["sample_rate"], record["envoy_sample_rate"]) == (0.98, 0.5)


@pytest.mark.parametrize(("chance", "kept"), [(0.49, True), (0.5, False)])
def test_chance_decides_without_an_id(chance: float, kept: bool) -> None:
    assert keeps(Sampling(0.5), ok(), lambda: chance) is kept


@pytest.mark.parametrize(
    "record",
    [
        {"code": 500},
        {"code": 401},
        {"code": 429},
        {"code": 0},
        {"code": 0, "access_log_type": "DownstreamEnd"},
        {"code": 200, "response_flags": ("DC",)},
        {"code": 200, "authz_outcome": "deny"},
        {"code": 200, "authz_outcome": "error"},
        {"code": 200, "authz_outcome": "allow", "authz_shadow_outcome": "deny"},
        {"code": 200, "ratelimit_outcome": "over_limit"},
        {"type": "tcp", "connection_termination_details": "rbac"},
        {"type": "tcp", "downstream_transport_failure_reason": "TLS"},
        {"type": "tcp", "upstream_transport_failure_reason": "TLS"},
    ],
)
def test_errors_and_denials_are_kept_whatever_the_rate(record: dict[str, Any]) -> None:
    assert keeps(Sampling(0), record, never_asked)
    assert "sample_rate" not in record


@pytest.mark.parametrize(
    "record",
    [
        {"code": 200, "authz_outcome": "allow", "ratelimit_outcome": "ok"},
        {"code": 302},
        {"type": "tcp"},
        {"code": 0, "access_log_type": "DownstreamStart"},
    ],
)
def test_the_ordinary_is_not_notable(record: dict[str, Any]) -> None:
    assert not is_notable(record)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Sampling(rate)
