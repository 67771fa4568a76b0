"""Services keep to the ceilings of the platform, except where an exception that has not ended allows more."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from common.configfile import KeyPart, Problem
from edge.intent.blocks import Per
from edge.intent.model import Layer, Limit, Origin, Route, Service
from edge.intent.platform import Platform
from edge.intent.service_file import ExceptionConfig
from edge.intent.words import latency_seconds

_OF_ROUTES: Final = ("requests_per_second", "burst", "sample", "timeout_seconds")
"""The ceilings that hold for each route, not for the service as a whole."""


def exceeded(service: Service, platform: Platform, today: date) -> Iterator[Problem]:
    """Yield a problem for each ceiling that the service exceeds, and for each exception that is wrong."""
    checking = _Ceilings(service, platform, today)
    yield from checking.exceptions()
    yield from checking.counts()
    for route in service.routes:
        yield from checking.rates(route)
        yield from checking.sample(route)
        yield from checking.timeout(route)


class _Ceilings:
    def __init__(self, service: Service, platform: Platform, today: date) -> None:
        self._service = service
        self._platform = platform
        self._today = today
        self._ceilings = platform.content.ceilings

    def exceptions(self) -> Iterator[Problem]:
        """Yield what is wrong with the exceptions themselves."""
        routes = {route.id for route in self._service.routes}
        whole = self._service.whole
        for position, exception in enumerate(self._service.exceptions):
            path: tuple[KeyPart, ...] = ("exceptions", position)
            ceiling = getattr(self._ceilings, exception.ceiling)
            if exception.until < self._today:
                message = (
                    f"the exception ended on {exception.until}: remove it and keep to the ceiling, or have "
                    "it approved again with a later day"
                )
                yield whole.problem(message, *path, "until")
            yield from self._approval(exception, path)
            if ceiling is None:
                yield whole.problem(
                    "the platform has no such ceiling: remove the exception", *path, "ceiling"
                )
            elif exception.value <= ceiling:
                message = f"{exception.value:g} is not above the ceiling of {ceiling:g}: remove the exception"
                yield whole.problem(message, *path, "value")
            if exception.route is None:
                continue
            if exception.ceiling not in _OF_ROUTES:
                message = f"the ceiling {exception.ceiling} is about the whole service: leave route out"
                yield whole.problem(message, *path, "route")
            elif exception.route not in routes and not self._service.dropped:
                yield whole.problem(f"the service has no route {exception.route!r}", *path, "route")

    def _approval(self, exception: ExceptionConfig, path: tuple[KeyPart, ...]) -> Iterator[Problem]:
        rules = self._platform.content.exceptions
        days = (exception.until - self._today).days
        if rules.max_days is not None and days > rules.max_days:
            message = f"an exception may last {rules.max_days} days, not {days} ({self._rules('max_days')})"
            yield self._service.whole.problem(message, *path, "until")
        if not self._is_approved(exception):
            ticket = exception.ticket or "none"
            message = f"the ticket is not approved: {ticket} ({self._rules('approved')} lists those that are)"
            yield self._service.whole.problem(message, *path, "ticket")

    def _holds(self, exception: ExceptionConfig) -> bool:
        return exception.until >= self._today and self._is_approved(exception)

    def _is_approved(self, exception: ExceptionConfig) -> bool:
        approved = self._platform.content.exceptions.approved
        return approved is None or exception.ticket in approved

    def _rules(self, name: str) -> str:
        return self._platform.origin(Layer.OVERRIDE, "exceptions", name).place

    def counts(self) -> Iterator[Problem]:
        """Yield a problem if the service has too many routes, or too many that anyone may call."""
        opened = sum(route.access.open for route in self._service.routes)
        found = (
            ("routes", len(self._service.routes), "routes are"),
            ("open_routes", opened, "routes that anyone may call are"),
        )
        for name, count, what in found:
            allowed = self._allowed(name, "")
            if allowed is not None and count > allowed:
                message = f"{count} {what} more than the ceiling of {allowed:g} ({self._place(name)})"
                yield self._service.whole.problem(f"{message}: {_remedy(name)}", "routes")

    def rates(self, route: Route) -> Iterator[Problem]:
        """Yield a problem for each limit of the route that is too high, and if it has none."""
        highest = self._allowed("requests_per_second", route.id)
        burst = self._allowed("burst", route.id)
        for limit in route.limits:
            if limit.origin.layer is not Layer.SERVICE or limit.share is not None:
                continue
            if highest is not None and limit.per_second > highest:
                value = f"{limit.per_second:g} requests a second are"
                yield self._above(limit.origin, "requests_per_second", value, highest, "requests")
            most = _burst(limit)
            if burst is not None and most > burst:
                key = "requests" if limit.burst is None else "burst"
                yield self._above(limit.origin, "burst", f"{most} requests at once are", burst, key)
        if highest is not None and not _is_limited(route) and self._service.limit is None:
            anonymous = "" if all(one.shadow for one in route.limits) else " of callers without a subject"
            message = (
                f"the route has no limit{anonymous}, but the ceiling is {highest:g} requests a second "
                f"({self._place('requests_per_second')}): write limits, or choose a tier for the service"
            )
            yield route.origin.problem(message)

    def sample(self, route: Route) -> Iterator[Problem]:
        """Yield a problem if too large a part of the requests is logged."""
        allowed = self._allowed("sample", route.id)
        found = route.log.sample
        if allowed is None or found.value <= allowed:
            return
        if found.origin.layer is Layer.SERVICE:
            yield self._above(found.origin, "sample", f"a sample of {found.value:g} is", allowed)
        elif found.origin.layer is Layer.SUITE:
            message = f"nothing says log.sample, so all requests are logged: write at most {allowed:g}"
            yield route.origin.problem(f"{message} ({self._place('sample')})")

    def timeout(self, route: Route) -> Iterator[Problem]:
        """Yield a problem if Envoy waits too long for the upstream."""
        allowed = self._allowed("timeout_seconds", route.id)
        found = route.timeout
        if allowed is None or latency_seconds(found.value) <= allowed:
            return
        if found.origin.layer is Layer.SERVICE:
            yield self._above(found.origin, "timeout_seconds", f"a timeout of {found.value} is", allowed)
        elif found.origin.layer is Layer.SUITE:
            message = f"nothing says timeout, so it is {found.value}: write at most {allowed:g}s"
            yield route.origin.problem(f"{message} ({self._place('timeout_seconds')})")

    def _above(self, origin: Origin, name: str, value: str, ceiling: float, *below: KeyPart) -> Problem:
        message = f"{value} above the ceiling of {ceiling:g} ({self._place(name)}): {_remedy(name)}"
        return origin.problem(message, *below)

    def _allowed(self, name: str, route: str) -> float | None:
        """Return the ceiling for a route, or the highest exception that holds; None without a ceiling."""
        ceiling: float | None = getattr(self._ceilings, name)
        if ceiling is None:
            return None
        granted = (
            one.value
            for one in self._service.exceptions
            if one.ceiling == name and one.route in {None, route} and self._holds(one)
        )
        return max((ceiling, *granted))

    def _place(self, name: str) -> str:
        return self._platform.origin(Layer.OVERRIDE, "ceilings", name).place


def _is_limited(route: Route) -> bool:
    """Return whether a limit refuses requests of each caller: anyone may come without a subject."""
    limits = (one for one in route.limits if not one.shadow)
    return any(one.per is not Per.SUBJECT or not route.access.open for one in limits)


def _burst(limit: Limit) -> int:
    return limit.requests if limit.burst is None else limit.burst


def _remedy(name: str) -> str:
    return f"lower it, or add an exception with ceiling: {name}"
