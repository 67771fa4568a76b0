"""The authz rules of an estate.

A rule is named after its route, and holds only for requests that Envoy sends along that route: Envoy names
the route in its check (`context_extensions`). So the most specific route decides alone, and a rule of one
team cannot allow what a route of another refuses.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge.intent.model import Route, Service

ROUTE_KEY: Final = "edge_route"
"""The key of the route's name among Envoy's context extensions."""
DENY_SUFFIX: Final = ".deny"
"""Ends the name of the rule with the callers that a route denies; labels have no dot."""

CONTEXT: Final = "context_extensions"


def service_rules(service: Service) -> Iterator[dict[str, Any]]:
    """Yield the rules of a service, in the words of a policy file."""
    for route in service.routes:
        covered = _covered(service, route)
        said = dict(route.access.written)
        denied = said.pop("deny", None)
        context = {**said.pop(CONTEXT, {}), ROUTE_KEY: route.name}
        yield {"name": route.name, **covered, **said, CONTEXT: context}
        if denied is not None:
            deny = {"deny": denied, CONTEXT: {ROUTE_KEY: route.name}}
            yield {"name": route.name + DENY_SUFFIX, **covered, **deny}


def _covered(service: Service, route: Route) -> Mapping[str, Any]:
    covered: dict[str, Any] = {"owner": service.owner, "hosts": [str(host) for host in service.hosts]}
    if route.methods is not None:
        covered["methods"] = list(route.methods)
    covered["paths"] = [path.text for path in route.paths]
    return covered
