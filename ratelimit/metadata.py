"""What Envoy's other filters and its access log get to know of a decision."""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from math import isfinite
from typing import Any, Final

from common.configfile import KeyPart, key_path_text
from protos.lenient import is_marked, shown
from ratelimit.decision import LimitDecision
from ratelimit.listing import period_of
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import Unit
from ratelimit.scalars import as_in_go
from ratelimit.secret_values import SecretValues

_ALWAYS: Final = 2**64
"""More than any limit leaves."""

PlainAt = Callable[[tuple[KeyPart, ...], Any], str | None]


class MetadataError(Exception):
    """Metadata that a google.protobuf.Struct cannot carry; the message names the place."""


def as_metadata(value: Any, plain_at: PlainAt = lambda *_: None) -> Mapping[str, Any]:
    """`value`, whose keys are text, as a google.protobuf.Struct can carry it, its scalars as in Go.

    Raises MetadataError.

    `plain_at` gives the scalar at a key path of `value`, which PyYAML reads as its second argument, as it is
    written; None where it is in quotes.
    """
    if not isinstance(value, dict):
        raise MetadataError("metadata must be a map")
    carried: Mapping[str, Any] = _carried(value, (), plain_at)
    return carried


def explain(decision: LimitDecision, *, full: bool) -> dict[str, Any]:
    """The dynamic metadata of a decision.

    `domain`, `outcome` (ok, over_limit), `rule` (the key of the rule that decided, else of the one closest
    to its limit) with its `limit` and `period`, `remaining` where `remaining_told_below` says so, `reason`
    (why the store gave no answer, or that a shadow mode let the request pass), `revision`, and `metadata` of
    the rules that passed. Where `full`, also `descriptors` and `hitsAddend` of the request, as
    envoyproxy/ratelimit has them (RESPONSE_DYNAMIC_METADATA), secret values as hashes.
    """
    explained = explain_outcome(decision)
    deciding = decision.deciding
    if deciding is not None and deciding.remaining < remaining_told_below(decision):
        explained["remaining"] = deciding.remaining
    if not full:
        return explained
    plan = decision.plan
    return explained | explain_request(plan.request, plan.limits.options.secrets)


def explain_outcome(decision: LimitDecision) -> dict[str, Any]:
    """The part of `explain` that many requests share: it depends on the rules and what became of them."""
    explained: dict[str, Any] = {
        "domain": decision.plan.request.domain,
        "outcome": "over_limit" if decision.over_limit else "ok",
        "revision": decision.plan.limits.revision,
    }
    deciding = decision.deciding
    if deciding is not None and deciding.rule is not None:
        explained["rule"] = deciding.rule.key
        if deciding.current is not None:
            explained["limit"] = deciding.rule.requests_per_unit
            if (period := period_of(deciding.rule)) is not None:
                explained["period"] = period
    if decision.reason:
        explained["reason"] = decision.reason
    passed = [
        status.rule.metadata
        for status in decision.statuses
        if status.rule is not None and status.rule.metadata and not status.over_limit
    ]
    if passed:
        explained["metadata"] = merge(passed)
    return explained


def remaining_told_below(decision: LimitDecision) -> int:
    """The number of hits left from which the metadata omits `remaining`.

    The same for all requests that share `explain_outcome`. A limit that is far away would change the metadata
    with every request, and neither ratelimit nor the access log could reuse its encoding.
    """
    deciding = decision.deciding
    if deciding is None or deciding.current is None:
        return 0
    if deciding.over_limit:
        return _ALWAYS
    charges = [charge for charge in decision.plan.charges if decision.statuses[charge.position] is deciding]
    return charges[0].size - charges[0].near if charges else 0


def explain_request(request: LimitRequest, secrets: SecretValues) -> dict[str, Any]:
    """The part of `explain` that repeats the request: `descriptors`, and `hitsAddend` where there are any."""
    explained: dict[str, Any] = {
        "descriptors": [_descriptor(descriptor, secrets) for descriptor in request.descriptors]
    }
    if request.hits_addend:
        explained["hitsAddend"] = request.hits_addend
    return explained


def entry_texts(descriptor: Descriptor, secrets: SecretValues) -> list[str]:
    """The entries of a descriptor as its metadata has them, before `shown`: secret values as hashes."""
    return [f"{key}={secrets.shown(key, value)}" for key, value in descriptor.entries]


def _descriptor(descriptor: Descriptor, secrets: SecretValues) -> dict[str, Any]:
    entries = entry_texts(descriptor, secrets)
    explained: dict[str, Any] = {"entries": [shown(entry) for entry in entries]}
    if any(map(is_marked, entries)):
        explained["not_utf8"] = True
    if descriptor.override is not None:
        requests, unit, multiplier = descriptor.override
        name = Unit(unit).name if unit in Unit.__members__.values() else "UNKNOWN"
        # The text format of protobuf, which leaves out a number that is 0.
        number = f"requests_per_unit:{requests} " if requests else ""
        text = f"{number}unit:{name}"
        explained["limit"] = text if multiplier == 1 else f"{text} unit_multiplier:{{value:{multiplier}}}"
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


def _carried(value: Any, path: tuple[KeyPart, ...], plain_at: PlainAt) -> Any:
    if isinstance(value, dict):
        return {key: _carried(inner, (*path, key), plain_at) for key, inner in value.items()}
    if isinstance(value, list):
        return [_carried(inner, (*path, index), plain_at) for index, inner in enumerate(value)]
    value = as_in_go(value, lambda: plain_at(path, value))
    if isinstance(value, date):
        return value.isoformat()
    where = key_path_text(("metadata", *path))
    if isinstance(value, float) and not isfinite(value):
        raise MetadataError(f"{where} is {value}, which JSON and Struct cannot carry")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise MetadataError(f"{where} is a {type(value).__name__}, which Struct cannot carry")
