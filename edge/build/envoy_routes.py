"""Envoy's routes: a virtual host for each host of the estate, its most specific routes first.

Envoy takes the first route whose path and method match, so requests that a service does not offer get 404
from Envoy, without a check. Where something is the same for all routes, or for all of a service, it is not
repeated.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from edge.build.encode import Encoded
from edge.build.envoy_clusters import upstream_name
from edge.build.envoy_paths import path_match
from edge.build.limits import rate_limit_actions
from edge.build.policy import ROUTE_KEY
from edge.intent.claims import specificity
from edge.intent.model import Route, Service
from edge.intent.words import latency_seconds

ROUTES_NAME: Final = "edge"
REVISION_KEY: Final = "edge_revision"
"""The key of the revision among Envoy's context extensions, and the access log's tag with it."""
METADATA: Final = "edge"
"""The namespace of the revision in the metadata of virtual hosts."""

_PER_ROUTE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"


Order = tuple[tuple[int, ...], bool, str, str]
"""The place of a route among those of its host: how specific its path is, and whether it has every method;
then the path and the name, so that each build has the same order."""


def service_routes(service: Service) -> Iterator[tuple[Order, dict[str, Any]]]:
    """Yield the routes of a service, one for each path template, with their places."""
    for route in service.routes:
        yield from _routes(service, route)


def _routes(service: Service, route: Route) -> Iterator[tuple[Order, dict[str, Any]]]:
    action: dict[str, Any] = {"cluster": upstream_name(service), "timeout": timeout_of(route)}
    if limits := list(rate_limit_actions(service, route)):
        action["rate_limits"] = limits
    for path in route.paths:
        match = path_match(path)
        if route.methods is not None:
            match["headers"] = [_method(route.methods)]
        yield (
            (specificity(path), route.methods is None, path.text, route.name),
            {
                "name": route.name,
                "match": match,
                "route": action,
                "typed_per_filter_config": _check_settings(ROUTE_KEY, route.name),
            },
        )


def timeout_of(route: Route) -> str:
    """Return the timeout as JSON of a Duration, which has no milliseconds: `0.3s`."""
    return f"{latency_seconds(route.timeout.value):g}s"


def _method(methods: Sequence[str]) -> dict[str, Any]:
    """Return the condition that the method is one of these."""
    if len(methods) == 1:
        return {"name": ":method", "string_match": {"exact": methods[0]}}
    return {"name": ":method", "string_match": {"safe_regex": {"regex": method_regex(methods)}}}


def method_regex(methods: Sequence[str]) -> str:
    """Return a regular expression for any of the methods, of no more instructions than characters."""
    return "|".join(map(re.escape, methods))


def _check_settings(key: str, value: str) -> dict[str, Any]:
    """Return what the check of authz is told, in addition to what wider parts of the configuration say."""
    return {_EXT_AUTHZ: {"@type": _PER_ROUTE, "check_settings": {"context_extensions": {key: value}}}}


def route_configuration(virtual_hosts: Encoded, revision: str) -> dict[str, Any]:
    """Return the fields of Envoy's RouteConfiguration with these virtual hosts."""
    return {
        "name": ROUTES_NAME,
        "typed_per_filter_config": _check_settings(REVISION_KEY, revision),
        "virtual_hosts": virtual_hosts,
    }


def virtual_host(host: str, revision: str, routes: Encoded) -> dict[str, Any]:
    """Return the fields of Envoy's VirtualHost for a host pattern, with these routes."""
    return {
        "name": host,
        "domains": [host],
        "metadata": {"filter_metadata": {METADATA: {"revision": revision}}},
        "routes": routes,
    }
