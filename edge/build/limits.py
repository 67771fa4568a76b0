"""The limits of an estate, in the format of ratelimit, and the actions with which Envoy names them.

The first entry of each descriptor is the service, so that no limit of one team counts requests of another.
Envoy takes all entries but the last from its configuration, so that no client chooses them.
"""

from collections.abc import Iterator
from typing import Any, Final

from edge.intent.blocks import Per
from edge.intent.model import Limit, Route, Service

SERVICE_KEY: Final = "service"
ROUTE_KEY: Final = "route"
LIMIT_KEY: Final = "limit"
TIER_KEY: Final = "tier"
AUTHZ_METADATA: Final = "envoy.filters.http.ext_authz"

_PER_KEYS: Final = {Per.CLIENT: "remote_address", Per.SUBJECT: "subject"}
_CALENDAR: Final = frozenset({"month", "quarter", "year"})


def service_limits(service: Service) -> dict[str, Any] | None:
    """Return the descriptor of a service; None if it has no limits."""
    below = [_leaf(service.limit, TIER_KEY, service.tier)] if service.limit is not None else []
    below += [
        {
            "key": ROUTE_KEY,
            "value": route.id,
            "descriptors": [_leaf(limit, LIMIT_KEY, name) for name, limit in named_limits(route)],
        }
        for route in service.routes
        if route.limits
    ]
    return {"key": SERVICE_KEY, "value": service.name, "descriptors": below} if below else None


def rate_limit_actions(service: Service, route: Route) -> Iterator[dict[str, Any]]:
    """Yield Envoy's RateLimit for each limit that a request along the route meets."""
    own = _fixed(SERVICE_KEY, service.name)
    if service.limit is not None:
        yield {"actions": [own, *_entry(service.limit, TIER_KEY, service.tier)]}
    for name, limit in named_limits(route):
        yield {"actions": [own, _fixed(ROUTE_KEY, route.id), *_entry(limit, LIMIT_KEY, name)]}


def named_limits(route: Route) -> Iterator[tuple[str, Limit]]:
    """Yield the limits of a route, each with its name, which is its position from 1."""
    return ((str(position), limit) for position, limit in enumerate(route.limits, 1))


def _leaf(limit: Limit, key: str, value: str) -> dict[str, Any]:
    """Return the descriptor with the limit, two entries deep if each client or subject has its own count."""
    rate: dict[str, Any] = {"period": limit.period, "requests_per_unit": limit.requests}
    if limit.burst is not None and limit.requests and limit.period not in _CALENDAR:
        rate |= {"algorithm": "token_bucket", "burst": limit.burst}
    counted = {"shadow_mode": True, "rate_limit": rate} if limit.shadow else {"rate_limit": rate}
    if limit.per is Per.ALL:
        return {"key": key, "value": value, **counted}
    if limit.per is Per.CLIENT:
        # An IPv6 client has a network to itself, and would have another address for each request.
        counted = {"normalise": "address", **counted}
    return {"key": key, "value": value, "descriptors": [{"key": _PER_KEYS[limit.per], **counted}]}


def _entry(limit: Limit, key: str, value: str) -> Iterator[dict[str, Any]]:
    yield _fixed(key, value)
    if limit.per is Per.CLIENT:
        yield {"remote_address": {}}
    elif limit.per is Per.SUBJECT:
        # Envoy sends no descriptor for callers without a subject.
        subject = {"key": AUTHZ_METADATA, "path": [{"key": "subject"}]}
        yield {"metadata": {"descriptor_key": "subject", "metadata_key": subject}}


def _fixed(key: str, value: str) -> dict[str, Any]:
    return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}
