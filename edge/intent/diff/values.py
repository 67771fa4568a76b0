"""Changes of limits, logs and objectives between two routes."""

from collections.abc import Iterator, Sequence
from math import inf

from accesslog.records.redact_rules import Action, RedactRule
from common.redaction import folded
from edge.intent.blocks import Per
from edge.intent.diff.change import Found, Kind
from edge.intent.model import Limit, Logging, Objectives, Route
from edge.intent.wording import NAMES, action_text, per_text, rate_text
from edge.intent.words import latency_seconds

_STRENGTH = {None: 0, Action.HASH: 1, Action.MASK: 2, Action.DROP: 3}


def changes_of_route(old: Route, new: Route) -> Iterator[Found]:
    """Yield what changes from one route to the other, apart from requests and access."""
    yield from changes_of_limits(new.name, old.limits, new.limits)
    yield from _log(new.name, old.log, new.log)
    yield from _objectives(new.name, old.objectives, new.objectives)
    was, now = latency_seconds(old.timeout.value), latency_seconds(new.timeout.value)
    if was != now:
        text = f"the timeout is {'raised' if now > was else 'lowered'} from {old.timeout.value}"
        yield Kind.OTHER, new.name, f"{text} to {new.timeout.value}"


def changes_of_limits(
    subject: str, old: Sequence[Limit], new: Sequence[Limit], thing: str = "limit"
) -> Iterator[Found]:
    """Yield what changes of limits, compared by what they count; `thing` is what a limit is."""
    for per in Per:
        was, now = _enforced(old, per), _enforced(new, per)
        if list(map(rate_text, was)) == list(map(rate_text, now)):
            continue
        before, after = " and ".join(map(rate_text, was)), " and ".join(map(rate_text, now))
        who = per_text(per)
        if not now:
            yield Kind.LIMIT_HIGHER, subject, f"{thing} {who} is removed (before: {before})"
        elif not was:
            yield Kind.LIMIT_LOWER, subject, f"{thing} {who} is new: {after}"
        else:
            higher = _looseness(now) > _looseness(was)
            kind, verb = (Kind.LIMIT_HIGHER, "raised") if higher else (Kind.LIMIT_LOWER, "lowered")
            yield kind, subject, f"{thing} {who} is {verb} from {before} to {after}"
    counted = [
        sorted(rate_text(one) + per_text(one.per) for one in limits if one.shadow) for limits in (old, new)
    ]
    if counted[0] != counted[1]:
        yield Kind.OTHER, subject, "limits that only count are changed"


def _enforced(limits: Sequence[Limit], per: Per) -> list[Limit]:
    found = [one for one in limits if one.per is per and not one.shadow]
    return sorted(found, key=lambda one: (one.per_second, one.requests, one.burst or 0))


def _looseness(limits: Sequence[Limit]) -> tuple[float, float]:
    """Return the rate and the burst that pass all limits, of which the lowest decides."""
    return (
        min((one.per_second for one in limits), default=inf),
        min((one.requests if one.burst is None else one.burst for one in limits), default=inf),
    )


def _log(subject: str, old: Logging, new: Logging) -> Iterator[Found]:
    yield from _redaction(subject, [one.value for one in old.redact], [one.value for one in new.redact])
    if old.sample.value != new.sample.value:
        verb = "raised" if new.sample.value > old.sample.value else "lowered"
        text = f"the part of ordinary requests that is logged is {verb} from {old.sample.value:g}"
        yield Kind.OTHER, subject, f"{text} to {new.sample.value:g}"
    if old.fields.value != new.fields.value:
        was, now = (
            "all" if fields is None else ", ".join(fields) for fields in (old.fields.value, new.fields.value)
        )
        yield Kind.OTHER, subject, f"fields of the log: {now} (before: {was})"


def _redaction(subject: str, old: Sequence[RedactRule], new: Sequence[RedactRule]) -> Iterator[Found]:
    for key, word in NAMES.items():
        was, now = _actions(old, key), _actions(new, key)
        for name, spelled in {**_spelled(old, key), **_spelled(new, key)}.items():
            before, after = was.get(name), now.get(name)
            if before is not after:
                weaker = _STRENGTH[after] < _STRENGTH[before]
                kind = Kind.REDACTION_WEAKER if weaker else Kind.OTHER
                verb = "is no longer redacted" if after is None else f"is now {action_text(after)}"
                yield kind, subject, f"{word} {spelled} {verb} in the log (before: {action_text(before)})"


def _actions(rules: Sequence[RedactRule], key: str) -> dict[str, Action]:
    """Return what becomes of each name: the first rule that has it decides."""
    found: dict[str, Action] = {}
    for rule in rules:
        for name in getattr(rule, key):
            found.setdefault(_compared(name, key), rule.action)
    return found


def _spelled(rules: Sequence[RedactRule], key: str) -> dict[str, str]:
    return {_compared(name, key): name for rule in rules for name in getattr(rule, key)}


def _compared(name: str, key: str) -> str:
    """Return the name as redaction compares it: an expression is itself."""
    is_expression = key == "path_segments" or (name.startswith("/") and name.endswith("/"))
    return name if is_expression else folded(name)


def _objectives(subject: str, old: Objectives, new: Objectives) -> Iterator[Found]:
    was, now = old.availability.value, new.availability.value
    if was != now:
        verb = _verb(was, now)
        yield (
            Kind.OTHER,
            subject,
            f"the objective of availability is {verb}: {_percent(now)} (before: {_percent(was)})",
        )
    before, after = old.latency.value, new.latency.value
    if before != after:
        seconds = [None if one is None else latency_seconds(one) for one in (before, after)]
        verb = _verb(*seconds)
        yield (
            Kind.OTHER,
            subject,
            f"the objective of latency is {verb}: {after or 'none'} (before: {before or 'none'})",
        )


def _verb(old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "removed"
    return "raised" if new > old else "lowered" if new < old else "written differently"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:g} %"
