"""Changes of what the platform says for everyone: rules, the settings of the policy, teams and ceilings."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel

from edge.intent.diff.change import Found, Kind
from edge.intent.envoy_block import EnvoyConfig
from edge.intent.model import DenyRule, Estate, Team, as_json
from edge.intent.wording import callers_text, conditions_text

_PLATFORM: Final = "platform"
_OF_ACCESS: Final = frozenset({"authz", "tls", "trusted_hops"})
"""Settings of the Envoys that decide on access: with too many proxies, clients choose their address."""
_LOGGED: Final = frozenset({"log_request_headers", "log_response_headers"})
_PLACES: Final = frozenset({"name", "answer", "owner", "ticket"})


def changes_of_platform(old: Estate, new: Estate) -> Iterator[Found]:
    """Yield what changes for every team."""
    yield from _rules(old, new)
    yield from _policy(old.policy, new.policy)
    if old.domain != new.domain:
        yield Kind.OTHER, _PLATFORM, f"the domain of the limits is {new.domain} (before: {old.domain})"
    for name in _names(old.teams, new.teams):
        yield from _team(old.teams.get(name), new.teams.get(name))
    yield from _settings("ceiling", old.ceilings, new.ceilings)
    yield from _settings("reserved", old.reserved, new.reserved)
    yield from _settings("exceptions", old.exception_rules, new.exception_rules)
    yield from _envoy(old.envoy, new.envoy)


def _envoy(old: EnvoyConfig, new: EnvoyConfig) -> Iterator[Found]:
    """Yield changes of the Envoys: some decide whose address a client has, and who is asked for access."""
    was, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    for key in _names(was, now):
        before, after = was.get(key), now.get(key)
        if before == after:
            continue
        kind = Kind.ACCESS_WIDER if key in _OF_ACCESS else Kind.OTHER
        if key in _LOGGED and not set(after or ()) <= set(before or ()):
            kind = Kind.REDACTION_WEAKER
        yield kind, _PLATFORM, f"envoy.{key} is {_text(after)} (before: {_text(before)})"


def _rules(old: Estate, new: Estate) -> Iterator[Found]:
    was = {rule.config.name: rule for rule in old.rules}
    now = {rule.config.name: rule for rule in new.rules}
    for name in _names(was, now):
        before, after = was.get(name), now.get(name)
        if before is None and after is not None:
            yield Kind.ACCESS_NARROWER, _PLATFORM, f"the rule {name} is new: it denies {_rule_text(after)}"
        elif before is not None and after is None:
            yield (
                Kind.ACCESS_WIDER,
                _PLATFORM,
                f"the rule {name} is removed (before: it denies {_rule_text(before)})",
            )
        elif before is not None and after is not None and before != after:
            text = f"the rule {name} denies {_rule_text(after)} (before: {_rule_text(before)})"
            yield Kind.ACCESS_WIDER, _PLATFORM, text


def _rule_text(rule: DenyRule) -> str:
    conditions = conditions_text({key: one for key, one in rule.written.items() if key not in _PLACES})
    return callers_text(rule.config.deny or ()) + (f", if {conditions}" if conditions else "")


def _policy(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Found]:
    """Yield changes of the policy's settings, which may widen access in ways that only people can judge."""
    was, now = _issuers(old), _issuers(new)
    for name in _names(was, now):
        if name not in was:
            yield Kind.ACCESS_WIDER, _PLATFORM, f"tokens of the issuer {name} are accepted now"
        elif name not in now:
            yield Kind.ACCESS_NARROWER, _PLATFORM, f"tokens of the issuer {name} are no longer accepted"
        elif not _same(was[name], now[name]):
            yield Kind.ACCESS_WIDER, _PLATFORM, f"the settings of the issuer {name} are changed"
    credentials = (old.get("credentials") or {}, new.get("credentials") or {})
    for key in _names(*credentials):
        if key != "issuers" and not _same(credentials[0].get(key), credentials[1].get(key)):
            # Without values: some of them are secrets.
            yield Kind.ACCESS_WIDER, _PLATFORM, f"policy.credentials.{key} is changed"
    conditions = (old.get("conditions") or {}, new.get("conditions") or {})
    for key in _names(*conditions):
        before, after = conditions[0].get(key), conditions[1].get(key)
        if before is not None and not _same(before, after):
            text = f"the condition {key} is {_text(after)} (before: {_text(before)})"
            yield Kind.ACCESS_WIDER, _PLATFORM, text
    for key in _names(old, new):
        if key not in {"credentials", "conditions"} and not _same(old.get(key), new.get(key)):
            text = f"policy.{key} is {_text(new.get(key))} (before: {_text(old.get(key))})"
            yield Kind.ACCESS_WIDER, _PLATFORM, text


def _issuers(policy: Mapping[str, Any]) -> dict[str, Any]:
    found = (policy.get("credentials") or {}).get("issuers") or []
    return {str(one.get("issuer")): one for one in found}


def _team(old: Team | None, new: Team | None) -> Iterator[Found]:
    if old is None and new is not None:
        yield Kind.OTHER, _PLATFORM, f"the team {new.name} is new; it owns {_owned(new)}"
    elif old is not None and new is None:
        yield Kind.OTHER, _PLATFORM, f"the team {old.name} is removed"
    elif old is not None and new is not None:
        if old.owns != new.owns:
            yield Kind.OTHER, _PLATFORM, f"the team {new.name} owns {_owned(new)} (before: {_owned(old)})"
        was, now = ([str(one) for one in team.upstreams or ()] for team in (old, new))
        if was != now:
            text = f"the upstreams of the team {new.name} are {_text(now)} (before: {_text(was)})"
            yield Kind.OTHER, _PLATFORM, text


def _owned(team: Team) -> str:
    return ", ".join(map(str, team.owns))


def _settings(word: str, old: BaseModel, new: BaseModel) -> Iterator[Found]:
    was, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    for key in _names(was, now):
        if was.get(key) != now.get(key):
            text = f"{word} {key} is {_text(now.get(key))} (before: {_text(was.get(key))})"
            yield Kind.OTHER, _PLATFORM, text


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _same(one: Any, other: Any) -> bool:
    return as_json(one) == as_json(other)


def _names(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted({*one, *other})
