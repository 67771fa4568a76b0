"""What one service adds to each artefact, encoded. It depends on that service alone."""

from dataclasses import dataclass

from authz.policy.types.pattern import HostPattern
from edge.build.encode import encode
from edge.build.envoy_clusters import upstream_cluster
from edge.build.envoy_routes import Order, service_routes
from edge.build.limits import service_limits
from edge.build.logs import service_logs
from edge.build.policy import service_rules
from edge.intent.model import Service

Placed = tuple[Order, bytes]
"""A route of Envoy: its place among the routes of a host, and the route."""


@dataclass(frozen=True, slots=True)
class ServicePart:
    """The encoded parts of one service."""

    rules: tuple[bytes, ...]
    """Rules of the policy."""
    limits: bytes
    """A descriptor of the limits; empty if the service has none."""
    logs: tuple[tuple[str, bytes], ...]
    """Rules of the access log by route."""
    hosts: tuple[HostPattern, ...]
    routes: tuple[Placed, ...]
    """Routes of Envoy, on each of the hosts, in order."""
    cluster: bytes


def service_part(service: Service) -> ServicePart:
    """Return what the service adds to each artefact."""
    limits = service_limits(service)
    return ServicePart(
        rules=tuple(encode(rule) for rule in service_rules(service)),
        limits=b"" if limits is None else encode(limits),
        logs=tuple((name, encode(rules)) for name, rules in service_logs(service)),
        hosts=service.hosts,
        routes=tuple(sorted((order, encode(route)) for order, route in service_routes(service))),
        cluster=encode(upstream_cluster(service)),
    )
