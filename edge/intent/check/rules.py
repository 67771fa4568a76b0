"""What services say is possible, and does not contradict what the platform says: callers, limits and logs."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Final

from accesslog.records.redact_rules import Action, RedactRule, RedactRules
from authz.policy.conditions.caller_conditions import Who, WhoConfig
from authz.policy.types.pattern import EVERY_PATH, Template
from common.configfile import KeyPart, Problem
from common.redaction import folded
from edge.intent.blocks import Per
from edge.intent.claims import host_includes, path_includes
from edge.intent.model import Access, Decided, DenyRule, Layer, Origin, Route, Service
from edge.intent.platform import Platform

_NAMES: Final = ("headers", "query_parameters", "cookies", "metadata")
_KEY: Final = bytes(32)
"""A key for hashes: the check needs one, and only the edges have the real one."""


def impossible(service: Service, platform: Platform, rules: Sequence[DenyRule]) -> Iterator[Problem]:
    """Yield a problem for each thing that a service says and that cannot be, or that the platform undoes."""
    if service.tier and service.limit is None:
        yield service.whole.problem(_unknown("tier", service.tier, platform.content.tiers), "tier")
    for route in service.routes:
        yield from _access(route, service, platform)
        yield from _denied_to_all(route, service, rules)
        yield from _limits(route, service)
        yield from _logging(route)


def _access(route: Route, service: Service, platform: Platform) -> Iterator[Problem]:
    access = route.access
    if access.origin.layer is Layer.SUITE:
        message = "who may call it? Write who: {allow: ...}; the platform has no defaults.who"
        yield route.origin.problem(message)
        return
    if access.origin.layer is not Layer.SERVICE:
        return
    for place, name in enumerate(access.conditions.named or ()):
        if name not in platform.content.policy.conditions:
            below = ("if", place) if isinstance(access.written["if"], list) else ("if",)
            message = _unknown("condition", name, platform.content.policy.conditions)
            yield access.origin.problem(message, *below)
    yield from unbound_variables(access, route.paths)
    team = platform.teams.get(service.owner)
    allowed = team.issuers if team is not None else None
    for key, whos in (("allow", access.conditions.allow or ()), ("deny", access.deny or ())):
        yield from _issuers(access.origin, key, whos, platform, allowed if key == "allow" else None)
    if access.conditions.caller is not None:
        yield from _issuers(access.origin, "caller", (access.conditions.caller,), platform, allowed)


def unbound_variables(access: Access, paths: Iterable[Template]) -> Iterator[Problem]:
    """Yield a problem for each path without a variable that `when` uses."""
    when = access.conditions.when
    for path in paths if when is not None and when.path_variables else ():
        lacking = sorted(when.path_variables.difference(path.variables)) if when is not None else []
        if lacking:
            message = f"vars.{lacking[0]}: the path {path} has no variable of that name"
            yield access.origin.problem(message, "when")


def known_issuers(platform: Platform) -> frozenset[str] | None:
    """Return the issuers whose credentials the platform accepts; None if they are not known."""
    credentials = platform.content.policy.credentials
    if credentials is None:
        return None
    names = {name for issuer in credentials.issuers for name in issuer.names}
    if credentials.introspection is not None:
        if not credentials.introspection.issuer:
            return None
        names.add(credentials.introspection.issuer)
    return frozenset(names)


def _issuers(
    origin: Origin, key: str, whos: Sequence[Who], platform: Platform, allowed: tuple[str, ...] | None
) -> Iterator[Problem]:
    known = known_issuers(platform)
    for who in whos:
        for issuer in (who.issuers or ()) if isinstance(who, WhoConfig) else ():
            if known is not None and issuer not in known:
                yield origin.problem(_unknown("issuer", issuer, known), key)
            elif allowed is not None and issuer not in allowed:
                team = f"the team may use only {', '.join(allowed)} (teams.NAME.issuers of the platform)"
                yield origin.problem(f"the issuer {issuer} is not for this team: {team}", key)


def _denied_to_all(route: Route, service: Service, rules: Sequence[DenyRule]) -> Iterator[Problem]:
    for rule in rules:
        config = rule.config
        unconditional = set(rule.written) <= {
            "name",
            "deny",
            "hosts",
            "methods",
            "paths",
            "answer",
            "owner",
            "ticket",
        }
        if not unconditional or "anyone" not in (config.deny or ()):
            continue
        if config.methods is not None and not set(route.methods or ("*",)) <= set(config.methods):
            continue
        if not all(any(host_includes(one, host) for one in config.hosts) for host in service.hosts):
            continue
        for place, path in enumerate(route.paths):
            if any(one == EVERY_PATH or path_includes(one, path) for one in config.paths):
                message = f"{path} can never be called: the platform's rule {config.name} denies it to all"
                yield route.origin.problem(f"{message} ({rule.origin.place})", "paths", place)


def _limits(route: Route, service: Service) -> Iterator[Problem]:
    overrides = [one for one in route.limits if one.origin.layer is Layer.OVERRIDE and not one.shadow]
    for limit in route.limits:
        if limit.share is not None and service.limit is None:
            own = limit.origin.layer is Layer.SERVICE
            origin = limit.origin if own else route.origin
            default = "" if own else f" (as the platform's default in {limit.origin.place})"
            text = f"a share{default} is a part of the tier's limit, but the service has no tier: write tier"
            yield origin.problem(text, *(("share",) if own else ()))
        if limit.origin.layer is Layer.SERVICE and limit.per is Per.SUBJECT and route.access.open:
            message = "anyone may call the route, also without a subject, which is not limited then"
            yield limit.origin.problem(f"{message}: write per: client", "per")
        if limit.origin.layer is not Layer.SERVICE or limit.share is not None:
            continue
        lower = [one for one in overrides if one.per is limit.per and one.per_second < limit.per_second]
        for one in lower[:1]:
            message = (
                f"{limit.per_second:g} requests a second never pass: the platform's limit of "
                f"{one.per_second:g} a second ({one.origin.place}) holds for every route; write at most that"
            )
            yield limit.origin.problem(message, "requests")


def _logging(route: Route) -> Iterator[Problem]:
    platform = [one for one in route.log.redact if one.origin.layer is Layer.OVERRIDE]
    for rule in route.log.redact:
        if rule.origin.layer is Layer.SERVICE:
            yield from bad_expressions(rule)
            for key in _NAMES:
                yield from _weakened(rule, key, platform)


def bad_expressions(rule: Decided[RedactRule]) -> Iterator[Problem]:
    """Yield a problem if a regular expression of the rule is not valid."""
    try:
        RedactRules((rule.value,), _KEY)
    except ValueError as error:
        yield rule.origin.problem(str(error))


def _weakened(
    rule: Decided[RedactRule], key: str, platform: Iterable[Decided[RedactRule]]
) -> Iterator[Problem]:
    for name in getattr(rule.value, key):
        for other in platform:
            same = folded(name) in {folded(one) for one in getattr(other.value, key)}
            if same and other.value.action is not rule.value.action:
                yield rule.origin.problem(_undone(name, rule.value.action, other), key)


def _undone(name: str, action: Action, other: Decided[RedactRule]) -> str:
    verbs = {Action.DROP: "drops", Action.MASK: "masks", Action.HASH: "hashes"}
    does = f"the platform {verbs[other.value.action]} {name} ({other.origin.place})"
    return f"{does}, so {action} has no effect: remove it"


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close: list[KeyPart] = list(get_close_matches(name, names, n=1))
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return f"the platform has no {kind} {name!r}; {hint}"
