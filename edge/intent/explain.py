"""Explains one request: which route decides, what holds for it, and which line of which file says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authz.policy.types.pattern import HostPattern, Template
from authz.request.host import canonical_host
from authz.request.path import NO_ANOMALY, Path, split_path
from edge.intent.claims import host_includes
from edge.intent.find import most_specific, service_of
from edge.intent.model import DenyRule, Estate, Layer, Origin, Route, Service
from edge.intent.wording import (
    access_text,
    callers_text,
    conditions_text,
    limit_text,
    methods_text,
    redaction_text,
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that holds for the request, and where it is written."""

    what: str
    text: str
    layer: Layer
    place: str
    """`FILE:LINE`; empty for a default of the sidecars."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the intent says about one request."""

    host: str
    method: str
    path: str
    route: str
    """SERVICE.ID; empty if no route decides."""
    verdict: str
    """Who may call, or why the request is not served."""
    reasons: tuple[Reason, ...]


def explain(estate: Estate, host: str, path: str, method: str) -> Explanation:
    """Return what the estate says about a request. Raises ValueError for a bad host or path."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r}: a path begins with /")
    host, split = canonical_host(host), split_path(path.partition("?")[0])
    service = service_of(estate, host, split.segments)
    found = most_specific(service.routes, method, split.segments) if service is not None else None
    if service is None or found is None:
        verdict = _not_served(estate, host, method, split, service)
        return Explanation(host, method, path, "", verdict, ())
    route, template = found
    verdict = access_text(route.access)
    reasons = (*_reasons(estate, service, route, template), *_rules(estate, host, method, split))
    if split.oddities is not NO_ANOMALY:
        names = ", ".join(one.name.lower() for one in split.oddities if one.name)
        verdict += f"; but authz refuses the path, which has {names}"
    return Explanation(host, method, path, route.name, verdict, reasons)


def _not_served(estate: Estate, host: str, method: str, path: Path, service: Service | None) -> str:
    wanted = HostPattern(host)
    if service is not None:
        others = [route for route in service.routes if _covers(route, path)]
        known = sorted({name for route in others for name in route.methods or ()})
        return f"not served: {service.name} has the path for {', '.join(known)}, but not for {method}"
    named = [one for one in estate.services if any(host_includes(each, wanted) for each in one.hosts)]
    if not named:
        return f"not served: no service has the host {host}"
    names = ", ".join(one.name for one in named)
    return f"not served: no route covers the path; the host is that of {names}"


def _covers(route: Route, path: Path) -> bool:
    return any(template.bind(path.segments) is not None for template in route.paths)


def _reasons(estate: Estate, service: Service, route: Route, template: Template) -> Iterator[Reason]:
    yield _reason("service", f"{service.name} of the team {service.owner}", service.origin)
    upstream = service.upstream
    text = f"{upstream.address}{' with TLS' if upstream.tls else ''}"
    yield _reason("upstream", text, service.whole.below("upstream"))
    yield _reason("route", f"{route.id}: {methods_text(route.methods)} {template}", route.origin)
    access = route.access
    yield _reason("allow", callers_text(access.allow), access.origin.below("allow"))
    team = estate.teams[service.owner]
    if team.issuers is not None and not access.open:
        text = f"only {' or '.join(team.issuers)} for the team {team.name}"
        yield _reason("issuers", text, team.origin.below("issuers"))
    conditions = conditions_text(access.written)
    if conditions:
        yield _reason("if", conditions, access.origin)
    if access.deny:
        yield _reason("deny", callers_text(access.deny), access.origin.below("deny"))
    for limit in route.limits:
        yield _reason("limit", limit_text(limit), limit.origin)
    if service.limit is not None:
        text = f"{limit_text(service.limit)}, on all routes of {service.name}"
        yield _reason("limit", text, service.limit.origin)
    yield _reason("timeout", route.timeout.value, route.timeout.origin)
    log = route.log
    yield _reason("log sample", f"{log.sample.value:g} of ordinary requests", log.sample.origin)
    fields = log.fields.value
    yield _reason("log fields", "all" if fields is None else ", ".join(fields), log.fields.origin)
    for rule in log.redact:
        yield _reason("redact", redaction_text(rule.value), rule.origin)
    availability, latency = route.objectives.availability, route.objectives.latency
    if availability.value is not None:
        yield _reason("availability", f"{availability.value:g} %", availability.origin)
    if latency.value is not None:
        yield _reason("latency", latency.value, latency.origin)


def _reason(what: str, text: str, origin: Origin) -> Reason:
    return Reason(what, text, origin.layer, origin.place)


def _rules(estate: Estate, host: str, method: str, path: Path) -> Iterator[Reason]:
    """Yield the deny rules of the platform for this host, method and path."""
    wanted = HostPattern(host)
    for rule in estate.rules:
        config = rule.config
        if (
            any(host_includes(one, wanted) for one in config.hosts)
            and (config.methods is None or method in config.methods)
            and any(template.bind(path.segments) is not None for template in config.paths)
        ):
            yield _reason("deny", _rule_text(rule), rule.origin)


_PLACES: Final = frozenset({"name", "hosts", "methods", "paths", "answer", "owner", "ticket", "mode"})


def _rule_text(rule: DenyRule) -> str:
    conditions = conditions_text({key: one for key, one in rule.written.items() if key not in _PLACES})
    shadow = " (shadow: it only counts)" if rule.config.mode == "shadow" else ""
    return (
        f"{callers_text(rule.config.deny or ())}{f', if {conditions}' if conditions else ''}, "
        f"by the rule {rule.config.name}{shadow}"
    )
