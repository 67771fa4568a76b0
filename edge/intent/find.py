"""Finds the route that decides on a request."""

from collections.abc import Iterable, Sequence

from authz.policy.types.pattern import HostPattern, Template
from edge.intent.claims import host_includes, specificity
from edge.intent.model import Estate, Route, Service


def service_of(estate: Estate, host: str, segments: Sequence[str]) -> Service | None:
    """Return the service that has the host and a route for the path: `check` sees to it that no other has.

    `host` is canonical (authz.request.host), and `segments` are decoded (authz.request.path).
    """
    wanted = HostPattern(host)
    for service in estate.services:
        on_host = any(host_includes(pattern, wanted) for pattern in service.hosts)
        if on_host and any(_covers(route.paths, segments) for route in service.routes):
            return service
    return None


def most_specific(
    routes: Iterable[Route], method: str, segments: Sequence[str]
) -> tuple[Route, Template] | None:
    """Return the route that decides, and the template by which it covers the path; None if none covers it.

    The most specific template decides: at the first segment in which two differ, plain text wins over a
    variable, and a variable over a rest. Of equal templates, a route that names the method wins.
    """
    found = [
        (specificity(template), route.methods is None, route, template)
        for route in routes
        if route.methods is None or method in route.methods
        for template in route.paths
        if template.bind(segments) is not None
    ]
    if not found:
        return None
    *_, route, template = min(found, key=lambda one: one[:2])
    return route, template


def _covers(templates: Iterable[Template], segments: Sequence[str]) -> bool:
    return any(template.bind(segments) is not None for template in templates)
