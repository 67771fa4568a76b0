"""Writes and reads the messages of OTLP logs (opentelemetry-proto 1.x)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from protos.otlp_logs_pb2 import (
    AnyValue,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
    LogRecord,
    SeverityNumber,
)

_LARGEST: Final = 2**63 - 1
_EVENT: Final = "envoy.access_log"


def export_request(
    records: Iterable[tuple[Mapping[str, Any], str, tuple[str, int]]],
    resource: Mapping[str, str],
    version: str,
    observed_ns: int,
    attribute_name: Callable[[str], str],
) -> bytes:
    """An ExportLogsServiceRequest with `records`: each a decoded line, its summary, and its severity.

    `observed_ns`, nanoseconds since 1970, are for a record without a time of receipt.
    The body is a short text; all fields are attributes.
    """
    request = ExportLogsServiceRequest()
    logs = request.resource_logs.add()
    for name, text in resource.items():
        logs.resource.attributes.add(key=name).value.string_value = text
    scope = logs.scope_logs.add()
    scope.scope.name, scope.scope.version = "edge-sidecars.accesslog", version
    for record, summary, (text, number) in records:
        received_ns = _nanoseconds(record.get("receive_time")) or observed_ns
        log = scope.log_records.add(observed_time_unix_nano=received_ns, event_name=_EVENT)
        log.body.string_value = summary
        log.severity_text, log.severity_number = text, cast("SeverityNumber", number)
        log.time_unix_nano = _nanoseconds(record.get("time"))
        _set_trace(log, record)
        for field, value in record.items():
            if field != "receive_time" and (field != "time" or not log.time_unix_nano):
                _set(log.attributes.add(key=attribute_name(field)).value, value)
    return request.SerializeToString()


def rejected(response: bytes) -> tuple[int, str]:
    """How many records a receiver rejected, and why. A response that cannot be read rejected none."""
    try:
        partial = ExportLogsServiceResponse.FromString(response).partial_success
    except DecodeError:
        return 0, ""
    return max(0, partial.rejected_log_records), partial.error_message


def retry_delay_seconds(details: bytes) -> float | None:
    """The RetryInfo in `details` (`grpc-status-details-bin`, a google.rpc.Status); None without one."""
    try:
        status = Status.FromString(details)
        for detail in status.details:
            info = RetryInfo()
            if detail.Unpack(info):
                delay: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return max(0.0, delay)
    except DecodeError:
        return None
    return None


def _nanoseconds(time: Any) -> int:
    """Nanoseconds since 1970; 0 for a time that OTLP cannot express, which only the text tells."""
    if not isinstance(time, str):
        return 0
    moment = datetime.fromisoformat(time)
    nanoseconds = (int(moment.timestamp()) * 1_000_000 + moment.microsecond) * 1000
    return nanoseconds if 0 <= nanoseconds < 2**64 else 0


def _set_trace(log: LogRecord, record: Mapping[str, Any]) -> None:
    """Join the record to its trace, if the access logger sends the header traceparent (W3C Trace Context)."""
    parent = (record.get("request_headers") or {}).get("traceparent")
    parts = parent.split("-") if isinstance(parent, str) else ()
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
        try:
            log.trace_id, log.span_id = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
        except ValueError:
            return


def _set(target: AnyValue, value: Any) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        if -_LARGEST <= value <= _LARGEST:
            target.int_value = value
        else:
            target.string_value = str(value)
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, dict):
        target.kvlist_value.SetInParent()
        for key, inner in value.items():
            _set(target.kvlist_value.values.add(key=key).value, inner)
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for inner in value:
            _set(target.array_value.values.add(), inner)
