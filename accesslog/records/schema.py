"""The JSON Schema of a line, for those that read the access log."""

from typing import Any, Final

from accesslog.records.fields import FIELDS
from accesslog.records.formats import ECS_NAMES, HEADER_MAPS, Format, ecs_name
from accesslog.records.opentelemetry import attribute_name

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    # JSON has no infinity, which an absurd entry may hold.
    "number": {"type": ["number", "null"]},
    "boolean": {"type": "boolean"},
    "list": {"type": "array"},
    "map": {"type": "object"},
}
_RFC_3339: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"


def schema(wanted: Format = Format.SIDECARS) -> dict[str, Any]:
    """The schema of the lines in a format."""
    make = {Format.SIDECARS: _ours, Format.OPENTELEMETRY: _opentelemetry, Format.ECS: _ecs}[wanted]
    return {"$schema": _DIALECT, "title": f"Access log record ({wanted})", "type": "object", **make()}


def _ours() -> dict[str, Any]:
    properties = {name: _property(name) for name in FIELDS}
    for name in ("time", "receive_time"):
        properties[name] |= {"type": "string", "pattern": _RFC_3339}
    properties["type"] = {**properties["type"], "type": "string", "enum": ["http", "tcp"]}
    return {"properties": properties, "required": ["time", "type"], "additionalProperties": False}


def _opentelemetry() -> dict[str, Any]:
    fields = [name for name in FIELDS if name not in HEADER_MAPS]
    headers = {
        f"^{attribute_name(name)}\\.": {"type": "array", "items": {"type": "string"}} for name in HEADER_MAPS
    }
    return {
        "properties": {
            "timestamp": {"type": "string", "pattern": _RFC_3339},
            "observed_timestamp": {"type": "string", "pattern": _RFC_3339},
            "severity_text": {"enum": ["INFO", "WARN", "ERROR"]},
            "severity_number": {"enum": [9, 13, 17]},
            "body": {"type": "string"},
            "resource": {"type": "object", "additionalProperties": {"type": "string"}},
            "attributes": {
                "type": "object",
                "properties": {attribute_name(name): _property(name) for name in fields},
                "patternProperties": headers,
                "additionalProperties": False,
            },
        },
        "required": ["timestamp", "severity_text", "severity_number", "body", "resource", "attributes"],
        "additionalProperties": False,
    }


def _ecs() -> dict[str, Any]:
    words = {"type": "array", "items": {"type": "string"}}
    properties = {ecs_name(name): _property(name) for name in FIELDS if name not in _OTHERWISE_IN_ECS}
    properties |= {
        ECS_NAMES["time"]: {"type": "string", "pattern": _RFC_3339},
        "ecs.version": {"type": "string"},
        "message": {"type": "string"},
        "log.level": {"enum": ["info", "warn", "error"]},
        "event.kind": {"const": "event"},
        "event.category": words,
        "event.type": words,
        "event.outcome": {"enum": ["success", "failure"]},
        "event.duration": {"type": "integer", "description": "nanoseconds"},
        "http.version": {"type": "string"},
        "tls.version": {"type": "string"},
        "tls.version_protocol": {"const": "tls"},
    }
    required = ["@timestamp", "ecs.version", "message", "event.outcome"]
    return {"properties": properties, "required": required, "additionalProperties": False}


_OTHERWISE_IN_ECS: Final = frozenset({"duration_us", "protocol", "tls_version"})


def _property(name: str) -> dict[str, Any]:
    kind, meaning = FIELDS[name]
    # Any filter of Envoy may write into the metadata of authz and ratelimit, and what it likes.
    joined = name.startswith(("authz_", "ratelimit_"))
    return {**({} if joined else _TYPES[kind]), "description": meaning}
