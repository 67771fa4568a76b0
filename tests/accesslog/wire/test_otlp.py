"""Our OTLP messages are those of the official package, and any record can be written."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from accesslog.records.opentelemetry import severity, summary
from accesslog.wire.otlp import export_request, rejected, retry_delay_seconds
from protos import otlp_logs_pb2

OFFICIAL = {
    name: message
    for module in (logs_service_pb2, logs_pb2, common_pb2, resource_pb2)
    for name, message in module.DESCRIPTOR.message_types_by_name.items()
}
OURS = otlp_logs_pb2.DESCRIPTOR.message_types_by_name


def promise(field: FieldDescriptor) -> tuple[Any, ...]:
    """What the wire depends on, and the name."""
    inner = field.message_type.name if field.message_type is not None else None
    return field.number, field.type, field.is_repeated, inner


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_field_number_and_type_is_the_official_one(name: str) -> None:
    official = {field.name: promise(field) for field in OFFICIAL[name].fields}
    for field in OURS[name].fields:
        assert promise(field) == official[field.name], field.name


def test_the_severities_are_the_official_ones() -> None:
    official = dict(logs_pb2.SeverityNumber.items())
    for name, number in otlp_logs_pb2.SeverityNumber.items():
        assert official[name] == number


def records_of(data: bytes) -> list[Any]:
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(data)
    [logs] = request.resource_logs
    [scope] = logs.scope_logs
    return list(scope.log_records)


def export(*records: dict[str, Any]) -> list[Any]:
    described = [(record, summary(record), severity(record)) for record in records]
    data = export_request(described, {"service.name": "edge"}, "1", 5, lambda name: name)
    return records_of(data)


SPECIAL: frozenset[str] = frozenset(
    {"time", "type", "code", "method", "path", "request_headers", "downstream_remote_address"}
)

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=9).filter(lambda name: name not in SPECIAL), values, max_size=5))
def test_any_value_can_be_written(record: dict[str, Any]) -> None:
    """An integer above 2**63 - 1 makes OpenTelemetry's own exporter lose the batch."""
    [log] = export(record)
    assert [attribute.key for attribute in log.attributes] == list(record)


@pytest.mark.parametrize(
    ("code", "severity"), [(200, "INFO"), (399, "INFO"), (404, "WARN"), (503, "ERROR"), (0, "ERROR")]
)
def test_the_severity_follows_the_status(code: int, severity: str) -> None:
    [log] = export({"type": "http", "method": "GET", "path": "/a", "code": code})
    assert log.severity_text == severity
    assert log.body.string_value == f"GET /a {code}"


def test_time_and_trace_are_those_of_the_request() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent}
    [log] = export({"time": "2026-09-21T14:13:20.123456Z", "request_headers": headers})
    assert log.time_unix_nano == 1_790_000_000_123_456_000
    assert log.observed_time_unix_nano == 5
    assert (log.trace_id.hex(), log.span_id.hex()) == (parent[3:35], parent[36:52])


def test_a_record_was_observed_when_its_entry_was_received() -> None:
    """Not when it is sent, which may be an outage later."""
    [log] = export({"receive_time": "2026-09-21T14:13:20.123456Z"})
    assert log.observed_time_unix_nano == 1_790_000_000_123_456_000
    assert not log.attributes


@pytest.mark.parametrize("parent", ["", "00-zz", f"00-{'z' * 32}-{'0' * 16}-01"])
def test_a_traceparent_that_is_not_one_is_an_attribute_alone(parent: str) -> None:
    [log] = export({"request_headers": {"traceparent": parent}})
    assert log.trace_id == b""


@pytest.mark.parametrize("data", [b"\xff\xff", b"not a message"])
def test_responses_that_cannot_be_read_reject_nothing_and_delay_nothing(data: bytes) -> None:
    assert rejected(data) == (0, "")
    assert retry_delay_seconds(data) is None


@pytest.mark.parametrize("time", ["1969-12-31T23:59:55.000000Z", "2603-01-01T00:00:00.000000Z"])
def test_a_time_that_otlp_cannot_carry_stays_a_text(time: str) -> None:
    """OTLP counts unsigned nanoseconds in 64 bits: one odd clock must not cost the other records."""
    odd, usual = export({"time": time}, {"time": "2026-09-21T14:13:20.000000Z"})
    assert odd.time_unix_nano == 0
    assert [(one.key, one.value.string_value) for one in odd.attributes] == [("time", time)]
    assert usual.time_unix_nano == 1_790_000_000_000_000_000


def test_an_entry_before_the_end_of_its_request_is_not_a_failure() -> None:
    [log] = export({"type": "http", "access_log_type": "DownstreamStart", "code": 0})
    assert log.severity_text == "INFO"
