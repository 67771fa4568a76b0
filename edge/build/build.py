"""From an estate to the files that the sidecars and Envoy read.

The revision is a hash of all of them without it, and is then in each: decisions name that of the policy,
refusals that of the limits, log entries that of Envoy's routes. How the intent is laid out in files does
not change it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from common.configfile import ConfigError
from edge.build.encode import Encoded, document, encode, long_list, long_map
from edge.build.envoy_bootstrap import following, following_bootstrap, static_bootstrap
from edge.build.envoy_clusters import sidecar_clusters
from edge.build.envoy_listener import listener
from edge.build.envoy_routes import ROUTES_NAME, route_configuration, virtual_host
from edge.build.logs import platform_redaction
from edge.build.problems import problems_of
from edge.build.service_part import ServicePart, service_part
from edge.build.sovereign import SOVEREIGN_RDS, sovereign_context
from edge.build.virtual_hosts import routes_by_host
from edge.build.xds import CLUSTER, LISTENER, ROUTE_CONFIGURATION, discovery_response
from edge.intent.model import Estate, Service

POLICY: Final = "policy.json"
LIMITS: Final = "limits.json"
LOGS: Final = "accesslog.json"
CLUSTERS: Final = "xds/clusters.json"
ROUTES: Final = "xds/routes.json"
LISTENERS: Final = "xds/listeners.json"
FOLLOWING_LISTENERS: Final = "xds/listeners-files.json"
"""Its listener gets routes from a file instead of a server."""
STATIC_ENVOY: Final = "envoy.json"
FOLLOWING_ENVOY: Final = "envoy-files.json"
"""A bootstrap that names the files below xds/."""
SOVEREIGN: Final = "sovereign.json"
REVISION: Final = "revision"
"""The file with the revision alone, for scripts."""

REVISION_CHARACTERS: Final = 12
"""As in other revisions: enough to tell those of one estate apart, short enough to read aloud."""

_ADS: Final = {
    "rds": {"route_config_name": ROUTES_NAME, "config_source": {"ads": {}, "resource_api_version": "V3"}}
}
_FILE: Final = {"rds": {"route_config_name": ROUTES_NAME, "config_source": following(ROUTES)}}


@dataclass(frozen=True, slots=True)
class Built:
    """The files of an estate by name."""

    revision: str
    files: Mapping[str, bytes] = field(repr=False)


@dataclass(slots=True)
class Builder:
    """Builds estates, and remembers what each service added the last time."""

    _parts: dict[str, tuple[Service, ServicePart]] = field(default_factory=dict)

    def build(self, estate: Estate) -> Built:
        """Return the files. Raises ConfigError for what Envoy would reject."""
        new = [service for service in estate.services if self._known(service) is None]
        if problems := list(problems_of(estate, new)):
            raise ConfigError(problems)
        parts = {
            service.name: (service, self._known(service) or service_part(service))
            for service in estate.services
        }
        self._parts = parts
        return _Contents(estate, [part for _, part in parts.values()]).built()

    def _known(self, service: Service) -> ServicePart | None:
        """Return the part of a service that is the same object as the last time; None for others."""
        known = self._parts.get(service.name)
        return known[1] if known is not None and known[0] is service else None


def build(estate: Estate) -> Built:
    """Return the files of an estate. Raises ConfigError for what Envoy would reject."""
    return Builder().build(estate)


class _Contents:
    """The content of all files without the revision."""

    def __init__(self, estate: Estate, parts: Sequence[ServicePart]) -> None:
        self._estate = estate
        platform_rules = (encode(rule.written) for rule in estate.rules)
        service_rules = (rule for part in parts for rule in part.rules)
        self._rules = long_list((*platform_rules, *service_rules))
        self._limits = long_list(part.limits for part in parts if part.limits)
        self._logs = long_map(rules for part in parts for rules in part.logs)
        self._routes = {
            host: long_list(route for _, route in routes) for host, routes in routes_by_host(parts)
        }
        sidecars = (encode(cluster) for cluster in sidecar_clusters(estate.envoy))
        self._clusters = [*sidecars, *(part.cluster for part in parts)]

    def built(self) -> Built:
        """Return all files, with the revision."""
        revision = self._revision()
        return Built(revision, {**dict(self._files(revision)), REVISION: f"{revision}\n".encode()})

    def _revision(self) -> str:
        """Return a hash of all that the files are made of."""
        estate = self._estate
        digest = hashlib.sha256()
        platform = [estate.domain, estate.policy, platform_redaction(estate.services)]
        one = listener(estate.envoy, estate.domain, SOVEREIGN_RDS)
        envoy = static_bootstrap(estate.envoy, one, Encoded(b"[]"))
        for host, routes in self._routes.items():
            digest.update(encode([host, len(routes)]) + routes)
        for part in (encode([platform, envoy]), self._rules, self._limits, self._logs, *self._clusters):
            digest.update(b"%d " % len(part) + part)
        return digest.hexdigest()[:REVISION_CHARACTERS]

    def _files(self, revision: str) -> Iterator[tuple[str, bytes]]:
        estate = self._estate
        yield POLICY, document({**estate.policy, "revision": revision, "rules": Encoded(self._rules)})
        limits = {"domain": estate.domain, "revision": revision, "descriptors": Encoded(self._limits)}
        yield LIMITS, document(limits)
        redact = platform_redaction(estate.services)
        yield LOGS, document({"revision": revision, "redact": redact, "routes": Encoded(self._logs)})
        yield from self._envoy(revision)

    def _envoy(self, revision: str) -> Iterator[tuple[str, bytes]]:
        envoy, domain = self._estate.envoy, self._estate.domain
        hosts = (
            encode(virtual_host(host, revision, Encoded(routes))) for host, routes in self._routes.items()
        )
        routes = encode(route_configuration(Encoded(long_list(hosts)), revision))
        clusters = self._clusters
        # In the order in which Envoy needs them: a route to a cluster that is not there yet answers 503.
        yield CLUSTERS, discovery_response(CLUSTER, revision, clusters)
        yield ROUTES, discovery_response(ROUTE_CONFIGURATION, revision, [routes])
        for name, source in ((LISTENERS, _ADS), (FOLLOWING_LISTENERS, _FILE)):
            resource = encode(listener(envoy, domain, source))
            yield name, discovery_response(LISTENER, revision, [resource])
        static = listener(envoy, domain, {"route_config": Encoded(routes)})
        yield STATIC_ENVOY, document(static_bootstrap(envoy, static, Encoded(long_list(clusters))))
        yield FOLLOWING_ENVOY, document(following_bootstrap(envoy, FOLLOWING_LISTENERS, CLUSTERS))
        polling = encode(listener(envoy, domain, SOVEREIGN_RDS))
        yield SOVEREIGN, sovereign_context(revision, self._estate.services, polling, routes, clusters)
