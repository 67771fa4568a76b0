"""Renders a line in the terms of OpenTelemetry or of the Elastic Common Schema (ECS 8.17)."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import orjson

from accesslog.records.opentelemetry import attribute_name, name_in, severity, summary
from accesslog.records.sample import is_notable

ECS_VERSION: Final = "8.17.0"

HEADER_MAPS: Final = ("request_headers", "response_headers")
"""Each header is an attribute of its own, a list of values (semantic conventions, http.request.header)."""

_LARGEST: Final = 2**63 - 1
"""The largest integer that JSON parsers for ECS read."""


class Format(StrEnum):
    """How records are written."""

    SIDECARS = "sidecars"
    OPENTELEMETRY = "opentelemetry"
    ECS = "ecs"


ECS_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "time": "@timestamp",
        "receive_time": "event.created",
        "log_name": "event.dataset",
        "node_id": "observer.name",
        "node_region": "cloud.region",
        "node_zone": "cloud.availability_zone",
        "request_id": "http.request.id",
        "method": "http.request.method",
        "scheme": "url.scheme",
        "authority": "url.domain",
        "path": "url.path",
        "query": "url.query",
        "port": "url.port",
        "user_agent": "user_agent.original",
        "referer": "http.request.referrer",
        "code": "http.response.status_code",
        "request_body_bytes": "http.request.body.bytes",
        "response_body_bytes": "http.response.body.bytes",
        "client_ip": "client.ip",
        "downstream_remote_address": "client.address",
        "downstream_wire_bytes_received": "client.bytes",
        "downstream_wire_bytes_sent": "server.bytes",
        "downstream_local_address": "server.address",
        "upstream_remote_address": "destination.address",
        "tls_cipher": "tls.cipher",
        "tls_sni": "tls.client.server_name",
        "tls_ja3": "tls.client.ja3",
        "tls_peer_subject": "tls.client.subject",
        "tls_peer_issuer": "tls.client.issuer",
        "tls_local_subject": "tls.server.subject",
        "tls_local_issuer": "tls.server.issuer",
        "authz_subject": "user.id",
        "authz_rule": "rule.name",
        "authz_reason": "event.reason",
    }
)
"""Fields of ECS by field of a record. Those of neither are below `envoy.`, `authz.` and `ratelimit.`."""


Renderer = Callable[[bytes], bytes]
"""Makes a line in another format of one in ours."""


def renderer(wanted: Format) -> Renderer | None:
    """What turns a line of ours into one of `wanted`; None if that is ours."""
    records = {Format.OPENTELEMETRY: opentelemetry_record, Format.ECS: ecs_record}
    render = records.get(wanted)
    if render is None:
        return None
    return lambda line: orjson.dumps(render(orjson.loads(line)), option=orjson.OPT_APPEND_NEWLINE)


def opentelemetry_record(record: dict[str, Any]) -> dict[str, Any]:
    """A log record in OpenTelemetry's data model, its attributes named as its semantic conventions do."""
    text, number = severity(record)
    attributes: dict[str, Any] = {}
    for field, value in record.items():
        if field in _TIMES or field in _RESOURCE:
            continue
        name = attribute_name(field)
        if field in HEADER_MAPS:
            attributes |= {f"{name}.{header.lower()}": [content] for header, content in value.items()}
        else:
            attributes[name] = value
    return {
        **{name: record[field] for field, name in _TIMES.items() if field in record},
        "severity_text": text,
        "severity_number": number,
        "body": summary(record),
        "resource": {name: record[field] for field, name in _RESOURCE.items() if field in record},
        "attributes": attributes,
    }


_TIMES: Final = {"time": "timestamp", "receive_time": "observed_timestamp"}
_RESOURCE: Final = {
    "node_cluster": "service.name",
    "node_id": "service.instance.id",
    "node_region": "cloud.region",
    "node_zone": "cloud.availability_zone",
}


def ecs_record(record: dict[str, Any]) -> dict[str, Any]:
    """A document of ECS, its names with dots."""
    is_http = record["type"] == "http"
    document: dict[str, Any] = {
        "@timestamp": record["time"],
        "ecs.version": ECS_VERSION,
        "message": summary(record),
        "log.level": severity(record)[0].lower(),
        "event.kind": "event",
        "event.category": ["web" if is_http else "network"],
        "event.type": ["access" if is_http else "connection"],
        "event.outcome": "failure" if is_notable(record) else "success",
    }
    for field, value in record.items():
        if field == "duration_us":
            document["event.duration"] = max(-_LARGEST, min(value * 1_000, _LARGEST))  # nanoseconds
        elif field == "protocol":
            document["http.version"] = value.removeprefix("HTTP/")
        elif field == "tls_version":
            document |= {"tls.version": value.removeprefix("TLSv"), "tls.version_protocol": "tls"}
        else:
            document[ecs_name(field)] = value
    return document


def ecs_name(field: str) -> str:
    """The name of a field in ECS, or below a name of our own."""
    return name_in(ECS_NAMES, field)
