"""Which route decides on each kind of request, before and after.

A kind of request is a host, a method and a path template that one of the estates names. So a route that was
renamed changes nothing, and a new route that takes paths away from a wider one is a change of access.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from authz.policy.types.pattern import HostPattern, Template
from edge.intent.claims import host_includes, path_includes, specificity
from edge.intent.model import Route, Service

EVERY_METHOD: Final = "*"
"""As the method of a request: one that no route names."""

_Key = tuple[HostPattern, str, tuple[str | None, ...], bool]


@dataclass(frozen=True, slots=True)
class Decider:
    """The route that decides, with its service, and the template by which it covers the requests."""

    service: Service
    route: Route
    template: Template

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the path's variables that conditions use, in order; empty if none uses them."""
        when = self.route.access.conditions.when
        if when is None or "vars" not in str(when):
            return ()
        return (*self.template.names, self.template.rest_name)


@dataclass(frozen=True, slots=True)
class Compared:
    """Who decides on a kind of request in the two estates; None where it is not served."""

    host: HostPattern
    method: str
    path: Template
    before: Decider | None
    after: Decider | None


def compared(old: Iterable[Service], new: Iterable[Service]) -> Iterator[Compared]:
    """Yield every kind of request that a service of either estate names."""
    old, new = list(old), list(new)
    was, now = _Routes(old), _Routes(new)
    methods = sorted({name for one in (*old, *new) for route in one.routes for name in route.methods or ()})
    seen: set[_Key] = set()
    for service in (*new, *old):
        for host in service.hosts:
            for route in service.routes:
                # A route for every method may take over from one that names a method, and the reverse.
                named = route.methods or (*_named_with(service, methods), EVERY_METHOD)
                for path in route.paths:
                    for method in named:
                        key = (host, method, path.segments, path.rest)
                        if key not in seen:
                            seen.add(key)
                            deciders = was.decider(host, method, path), now.decider(host, method, path)
                            yield Compared(host, method, path, *deciders)


def _named_with(service: Service, methods: Iterable[str]) -> list[str]:
    """Return the methods that a route of the service names, in the order of `methods`."""
    named = {name for route in service.routes for name in route.methods or ()}
    return [name for name in methods if name in named]


class _Routes:
    """The routes of an estate by host and first segment."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._by_host: dict[HostPattern, dict[str | None, list[Decider]]] = {}
        for service in services:
            for host in service.hosts:
                by_segment = self._by_host.setdefault(host, {})
                for route in service.routes:
                    for path in route.paths:
                        first = path.segments[0] if path.segments else None
                        by_segment.setdefault(first, []).append(Decider(service, route, path))

    def decider(self, host: HostPattern, method: str, path: Template) -> Decider | None:
        """Return the route that decides on all requests of the kind; None if none covers all of them."""
        found = [
            (specificity(decider.template), decider.route.methods is None, place, decider)
            for place, decider in enumerate(self._candidates(host, path))
            if (decider.route.methods is None or method in decider.route.methods)
            and path_includes(decider.template, path)
        ]
        return min(found, key=lambda one: one[:3])[3] if found else None

    def _candidates(self, host: HostPattern, path: Template) -> Iterator[Decider]:
        first = path.segments[0] if path.segments else None
        for pattern in _including(host):
            by_segment = self._by_host.get(pattern, {})
            yield from by_segment.get(first, ())
            if first is not None:
                yield from by_segment.get(None, ())


def _including(host: HostPattern) -> Iterator[HostPattern]:
    """Yield the host pattern itself, and those that include it."""
    yield host
    name = host.name
    while name:
        name = name.partition(".")[2]
        wider = HostPattern(name, wildcard=True)
        if wider != host and host_includes(wider, host):
            yield wider
