"""The route rules of accesslog: what the access log has of the requests along each route."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from accesslog.records.redact_rules import RedactRule
from edge.intent.model import Layer, Logging, Service


def service_logs(service: Service) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rules of a service by the names of its routes; a route without any is left out."""
    for route in service.routes:
        if rules := _rules(route.log):
            yield route.name, rules


def _rules(log: Logging) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if log.sample.origin.layer is not Layer.SUITE:
        said["sample"] = log.sample.value
    if log.fields.value is not None:
        said["fields"] = list(log.fields.value)
    if own := [rule.value for rule in log.redact if rule.origin.layer is not Layer.OVERRIDE]:
        said["redact"] = [_redact(rule) for rule in own]
    return said


def platform_redaction(services: Iterable[Service]) -> list[dict[str, Any]]:
    """Return the redaction of all records: that of the platform, which each route has."""
    logs = (route.log for service in services for route in service.routes)
    rules = next((log.redact for log in logs), ())
    return [_redact(rule.value) for rule in rules if rule.origin.layer is Layer.OVERRIDE]


def _redact(rule: RedactRule) -> dict[str, Any]:
    names = {field.name: getattr(rule, field.name) for field in fields(rule) if field.name != "action"}
    return {"action": rule.action.value, **{kind: list(listed) for kind, listed in names.items() if listed}}
