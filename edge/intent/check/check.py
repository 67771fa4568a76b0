"""Checks an estate: each service alone, then all of them together."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from common.configfile import Problem
from edge.intent.check.ceilings import exceeded
from edge.intent.check.overlaps import Holding, equal_routes, overlapping
from edge.intent.check.ownership import unowned
from edge.intent.check.rules import impossible
from edge.intent.check.spelling import Spelling
from edge.intent.model import DenyRule, Service
from edge.intent.platform import Platform


def problems_of_service(
    service: Service, platform: Platform, rules: Sequence[DenyRule], today: date
) -> Iterator[Problem]:
    """Yield what is wrong with a service, whatever the others say."""
    spelling = Spelling.of(platform.content.policy.paths)
    yield from equal_routes(service)
    yield from unowned(service, platform, spelling)
    yield from exceeded(service, platform, today)
    yield from impossible(service, platform, rules)


def problems_between(
    services: Iterable[Service], holdings: Iterable[Holding], spelling: Spelling
) -> Iterator[Problem]:
    """Yield where services have one name, or cover one request."""
    first: dict[str, Service] = {}
    for service in services:
        other = first.setdefault(service.name, service)
        if other is not service:
            yield service.whole.problem(f"{service.name!r} is already the service of {other.file}", "service")
    yield from overlapping(holdings, spelling, "route")
