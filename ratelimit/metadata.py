"""What Envoy's other filters and its access log get to know of a decision."""

from collections.abc import Iterable, Mapping
from datetime import date
from math import isfinite
from typing import Any

from protos.lenient import is_marked, shown
from ratelimit.decision import Decision
from ratelimit.request import Descriptor
from ratelimit.rules import Unit


class MetadataError(Exception):
    """Metadata that a google.protobuf.Struct cannot carry; the message names the place."""


def as_metadata(value: Any) -> Mapping[str, Any]:
    """`value` as a google.protobuf.Struct can carry it. Raises MetadataError."""
    if not isinstance(value, dict):
        raise MetadataError("metadata must be a map")
    plain: Mapping[str, Any] = _plain(value, "metadata")
    return plain


def explain(decision: Decision, *, full: bool) -> dict[str, Any]:
    """The dynamic metadata of a decision.

    `domain`, `outcome` (ok, over_limit), `rule` (the key of the rule that decided, else of the one closest
    to its limit), `reason` (why the store gave no answer, or that a shadow mode let the request pass),
    `revision`, and `metadata` of the rules that passed. Where `full`, also `descriptors` and `hitsAddend`
    of the request, as envoyproxy/ratelimit has them (RESPONSE_DYNAMIC_METADATA).
    """
    request = decision.plan.request
    explained: dict[str, Any] = {
        "domain": request.domain,
        "outcome": "over_limit" if decision.over_limit else "ok",
        "revision": decision.plan.limits.revision,
    }
    deciding = decision.deciding
    if deciding is not None and deciding.rule is not None:
        explained["rule"] = deciding.rule.key
    if decision.reason:
        explained["reason"] = decision.reason
    passed = [
        status.rule.metadata
        for status in decision.statuses
        if status.rule is not None and status.rule.metadata and not status.over_limit
    ]
    if passed:
        explained["metadata"] = merge(passed)
    if full:
        explained["descriptors"] = [_descriptor(descriptor) for descriptor in request.descriptors]
        if request.hits_addend:
            explained["hitsAddend"] = request.hits_addend
    return explained


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    entries = [f"{key}={value}" for key, value in descriptor.entries]
    explained: dict[str, Any] = {"entries": [shown(entry) for entry in entries]}
    if any(map(is_marked, entries)):
        explained["not_utf8"] = True
    if descriptor.override is not None:
        requests, unit, multiplier = descriptor.override
        name = Unit(unit).name if unit in Unit.__members__.values() else "UNKNOWN"
        text = f"requests_per_unit:{requests} unit:{name}"
        explained["limit"] = text if multiplier == 1 else f"{text} unit_multiplier:{multiplier}"
    if descriptor.hits is not None:
        explained["hitsAddend"] = -descriptor.hits if descriptor.refund else descriptor.hits
    return explained


def merge(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All of `parts` in one: the first value of a key wins, maps are merged key by key."""
    merged: dict[str, Any] = {}
    for part in parts:
        _merge_into(merged, part)
    return merged


def _merge_into(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict):
            known = target.setdefault(key, {})
            if isinstance(known, dict):
                _merge_into(known, value)
        else:
            target.setdefault(key, value)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise MetadataError(f"{path} has the key {key!r}; a key must be text, so quote it")
        return {key: _plain(inner, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not isfinite(value):
        raise MetadataError(f"{path} is {value}, which JSON and Struct cannot carry")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise MetadataError(f"{path} is a {type(value).__name__}, which Struct cannot carry")
