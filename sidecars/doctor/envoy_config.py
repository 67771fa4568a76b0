"""Reads the parts of Envoy's config_dump that concern the sidecars."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

EXT_AUTHZ: Final = "filters.http.ext_authz.v3.ExtAuthz"
RATE_LIMIT: Final = "filters.http.ratelimit.v3.RateLimit"
MANAGER: Final = "http_connection_manager.v3.HttpConnectionManager"
HTTP_LOG: Final = "access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
TCP_LOG: Final = "access_loggers.grpc.v3.TcpGrpcAccessLogConfig"
EXT_AUTHZ_PER_ROUTE: Final = "filters.http.ext_authz.v3.ExtAuthzPerRoute"
RATE_LIMIT_PER_ROUTE: Final = "filters.http.ratelimit.v3.RateLimitPerRoute"
FILTER_CONFIG: Final = "config.route.v3.FilterConfig"
HTTP_OPTIONS: Final = "upstreams.http.v3.HttpProtocolOptions"

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A typed part of the configuration, and the listener or route that has it."""

    place: str
    config: Config


def typed(tree: Any, kind: str) -> Iterator[Config]:
    """Yield every part of `tree` whose type ends with `kind`."""
    if isinstance(tree, Mapping):
        if str(tree.get("@type", "")).endswith(kind):
            yield tree
        for below in tree.values():
            yield from typed(below, kind)
    elif isinstance(tree, list):
        for below in tree:
            yield from typed(below, kind)


def value(tree: Any, path: str, default: Any = None) -> Any:
    """Return what `tree` has at a path such as `grpc_service.envoy_grpc.cluster_name`."""
    for name in path.split("."):
        if not isinstance(tree, Mapping):
            return default
        tree = tree.get(name)
    return default if tree is None else tree


def seconds(text: Any) -> float | None:
    """Return a Duration of protobuf's JSON (`0.200s`) in seconds; None if it is not set."""
    return None if text is None else float(str(text).rstrip("s"))


class EnvoyConfig:
    """The configuration in a config_dump. A route that listeners share is in it once."""

    def __init__(self, dump: Config) -> None:
        self.clusters: dict[str, Config] = {}
        self.listeners: list[Part] = []
        self._routes: list[Config] = []
        for section in dump.get("configs", ()):
            for one in (*section.get("static_clusters", ()), *section.get("dynamic_active_clusters", ())):
                self.clusters[str(value(one, "cluster.name"))] = one["cluster"]
            for one in section.get("static_listeners", ()):
                self._add_listener(one.get("listener", {}))
            for one in section.get("dynamic_listeners", ()):
                self._add_listener(value(one, "active_state.listener", {}))
            for one in section.get("ecds_filters", ()):
                filters = one.get("ecds_filter", {})
                self.listeners.append(Part(f"filter {filters.get('name', 'without a name')}", filters))
            for name in ("static_route_configs", "dynamic_route_configs"):
                self._routes += [one.get("route_config", {}) for one in section.get(name, ())]

    def _add_listener(self, listener: Config) -> None:
        self.listeners.append(Part(f"listener {listener.get('name', 'without a name')}", listener))

    def parts(self, kind: str) -> list[Part]:
        """Return the typed parts of all listeners."""
        return [
            Part(listener.place, config)
            for listener in self.listeners
            for config in typed(listener.config, kind)
        ]

    def filters(self, kind: str) -> list[Part]:
        """Return the HTTP filters of this type, with their names and whether they are disabled."""
        return [
            Part(manager.place, one)
            for manager in self.parts(MANAGER)
            for one in manager.config.get("http_filters", ())
            if str(value(one, "typed_config.@type", "")).endswith(kind)
        ]

    def overrides(self, kind: str, per_route: str) -> list[Part]:
        """Return what virtual hosts, routes and their clusters change of the filters of type `kind`.

        That is a configuration of type `per_route`, or a FilterConfig, which may disable any filter.
        """
        names = {str(one.config.get("name")) for one in self.filters(kind)}
        return [
            Part(level.place, config)
            for level in self._levels()
            for name, own in level.config.items()
            for config in (*typed(own, per_route), *(typed(own, FILTER_CONFIG) if name in names else ()))
        ]

    def routes(self) -> Iterator[tuple[str, Config, Config]]:
        """Yield the name of each route, its virtual host, and the route."""
        for routes in self._routes:
            for host in routes.get("virtual_hosts", ()):
                for route in host.get("routes", ()):
                    yield f"route {_route_name(route)}", host, route

    def _levels(self) -> Iterator[Part]:
        """Yield each `typed_per_filter_config`, and the part of the routes that has it."""
        for routes in self._routes:
            yield _per_filter(f"routes {routes.get('name')}", routes)
            for host in routes.get("virtual_hosts", ()):
                yield _per_filter(f"virtual host {host.get('name')}", host)
        for place, _, route in self.routes():
            yield _per_filter(place, route)
            for cluster in value(route, "route.weighted_clusters.clusters", ()):
                yield _per_filter(f"{place} to {cluster.get('name')}", cluster)


def _per_filter(place: str, level: Config) -> Part:
    return Part(place, level.get("typed_per_filter_config", {}))


def cluster_of(config: Config, path: str) -> str:
    """Return the cluster that a gRPC service at `path` names; empty for Google's client or no service."""
    return str(value(config, f"{path}.envoy_grpc.cluster_name", ""))


def _route_name(route: Config) -> str:
    return str(route.get("name") or next(iter(route.get("match", {}).values()), "without a name"))
