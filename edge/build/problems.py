"""What Envoy or authz would reject, and with it the configuration of every team."""

from collections.abc import Iterable, Iterator
from typing import Final

from common.configfile import Problem
from edge.build.envoy_paths import program_size
from edge.build.envoy_routes import method_regex
from edge.build.policy import CONTEXT, ROUTE_KEY
from edge.intent.model import Estate, Origin, Route, Service

_TOO_LONG: Final = (
    "{}: Envoy needs a regular expression of {} instructions for it, and accepts {}: shorten it, or raise "
    "envoy.max_regex_size of the platform, and before that re2.max_program_size.error_level of every Envoy"
)


def problems_of(estate: Estate, services: Iterable[Service]) -> Iterator[Problem]:
    """Yield what prevents the build of the estate, of whose services only these are looked at alone."""
    for service in services:
        for route in service.routes:
            yield from _too_long(route, estate.envoy.max_regex_size)
            if ROUTE_KEY in route.access.written.get(CONTEXT, {}):
                yield _problem(
                    route.origin, f"{CONTEXT}.{ROUTE_KEY} has the name of the route and cannot be set"
                )


def _too_long(route: Route, most: int) -> Iterator[Problem]:
    for position, path in enumerate(route.paths):
        if (size := program_size(path)) > most:
            yield _problem(route.origin, _TOO_LONG.format(path, size, most), "paths", position)
    if (size := len(method_regex(route.methods or ()))) > most:
        yield _problem(route.origin, _TOO_LONG.format("methods", size, most), "methods")


def _problem(origin: Origin, message: str, *below: str | int) -> Problem:
    if origin.document is None:
        return Problem("", 0, "", message)
    return origin.document.problem((*origin.path, *below), message)
