"""Whether the Envoy next to the sidecars reaches them, and is set as we advise."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from sidecars.client.pages import NoAnswerError, Page, page
from sidecars.doctor import envoy_advice as advice
from sidecars.doctor import envoy_config as kinds
from sidecars.doctor.envoy_config import Config, EnvoyConfig, Part, cluster_of, value
from sidecars.doctor.finding import Finding, fail, ok, warn
from sidecars.settings.per_worker import for_worker
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address, TcpAddress, UnixAddress

OLDEST: Final = (1, 39)
"""Older versions have CVE-2026-47205."""

_SERVICES: Final = {
    "authz": ((kinds.EXT_AUTHZ,), "grpc_service"),
    "ratelimit": ((kinds.RATE_LIMIT,), "rate_limit_service.grpc_service"),
    "accesslog": ((kinds.HTTP_LOG, kinds.TCP_LOG), "common_config.grpc_service"),
}
"""The filter or loggers that ask each sidecar, and where they name the cluster."""


@dataclass(frozen=True, slots=True)
class EnvoyPages:
    """The pages of Envoy's admin interface that are checked."""

    server_info: Config
    clusters: Config
    config_dump: Config


async def read_envoy(address: Address) -> tuple[EnvoyPages, Page]:
    """Return the pages, and the first answer for its headers. Raises NoAnswerError."""
    info = await page(address, "/server_info")
    clusters = await page(address, "/clusters?format=json")
    dump = await page(address, "/config_dump")
    for one in (info, clusters, dump):
        if one.status != 200:
            raise NoAnswerError(f"it answers {one.status}: is this Envoy's admin interface?")
    return EnvoyPages(info.json(), clusters.json(), dump.json()), info


def check_envoy(pages: EnvoyPages, settings: Settings, domains: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the findings of an Envoy for the sidecars of `settings`.

    `domains` are those that ratelimit has limits for; empty if they are not known.
    """
    yield _of_version(pages.server_info)
    config = EnvoyConfig(pages.config_dump)
    statuses = {one["name"]: one for one in pages.clusters.get("cluster_statuses", ())}
    for name, (asking, service) in _SERVICES.items():
        if getattr(settings, name) is None:
            continue
        parts = [part for kind in asking for part in config.parts(kind)]
        if not parts:
            seen = "no listener asks it"
            yield fail(
                f"envoy {name}", seen, "add the filter or the access log as envoy-test/envoy.yaml has it"
            )
        for cluster in dict.fromkeys(cluster_of(part.config, service) for part in parts):
            yield from _of_cluster(name, cluster, config, statuses.get(cluster, {}), settings)
    if settings.authz is not None:
        yield from _of_authz(config, settings)
    if settings.ratelimit is not None:
        yield from _of_ratelimit(config, domains)
    if settings.accesslog is not None:
        for part in (*config.parts(kinds.HTTP_LOG), *config.parts(kinds.TCP_LOG)):
            log = value(part.config, "common_config.log_name", "")
            yield from advice.advise(f"envoy {part.place} access log {log}", part.config, advice.ACCESS_LOG)
    yield from _of_managers(config, settings)


def _of_version(info: Config) -> Finding:
    version = str(info.get("version", "")).split("/")
    number = version[1] if len(version) > 1 else "unknown"
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if info.get("state") != "LIVE":
        return fail("envoy", f"{number}, {info.get('state')}", "see the log of Envoy")
    if parts and parts < OLDEST:
        return warn("envoy", f"version {number}", "run 1.39 or newer (CVE-2026-47205)")
    return ok("envoy", f"version {number}, live")


def _of_cluster(
    name: str, cluster: str, config: EnvoyConfig, status: Config, settings: Settings
) -> Iterator[Finding]:
    check = f"envoy cluster {cluster}"
    if not cluster:
        seen = "is not asked by Envoy's own gRPC client, so its cluster cannot be checked"
        yield warn(f"envoy {name}", seen, "write grpc_service: {envoy_grpc: {cluster_name: ...}}")
        return
    if cluster not in config.clusters:
        seen = f"{name} is asked by way of a cluster that Envoy does not have"
        yield fail(check, seen, "name a cluster in its grpc_service: {envoy_grpc: {cluster_name: ...}}")
        return
    written = config.clusters[cluster]
    if not _speaks_http2(written):
        yield fail(
            check,
            "does not speak HTTP/2, so no call arrives",
            "set explicit_http_config: {http2_protocol_options: {}} in its typed_extension_protocol_options",
        )
    yield from _of_hosts(check, name, status, settings)
    thresholds = [one for one in value(written, "circuit_breakers.thresholds", ()) if "priority" not in one]
    yield from advice.advise(check, thresholds[0] if thresholds else {}, advice.CLUSTER)


def _speaks_http2(cluster: Config) -> bool:
    if "http2_protocol_options" in cluster:
        return True
    options = next(kinds.typed(cluster.get("typed_extension_protocol_options", {}), kinds.HTTP_OPTIONS), {})
    return value(options, "explicit_http_config.http2_protocol_options") is not None


def _of_hosts(check: str, name: str, status: Config, settings: Settings) -> Iterator[Finding]:
    hosts = status.get("host_statuses", ())
    if not hosts:
        yield fail(check, "has no endpoint", "list the address of the sidecar in its load_assignment")
        return
    for host in hosts:
        where = _address_of(host.get("address", {}))
        health = host.get("health_status", {})
        bad = [reason for reason in health if reason.startswith("failed_")]
        stats = {one["name"]: int(one.get("value", 0)) for one in host.get("stats", ())}
        if bad or health.get("eds_health_status", "HEALTHY") not in {"HEALTHY", "UNKNOWN"}:
            reasons = ", ".join(bad) or health["eds_health_status"]
            yield fail(check, f"{where} is unhealthy: {reasons}", f"see the check of {name} above")
        elif stats.get("cx_connect_fail") and not stats.get("cx_active"):
            seen = f"{where} cannot be connected to ({stats['cx_connect_fail']} times)"
            yield fail(
                check, seen, "compare with `listen`, and see who may open the socket: ls -l, ?mode=0660"
            )
    yield from _of_endpoints(check, name, [_address_of(host.get("address", {})) for host in hosts], settings)


def _of_endpoints(check: str, name: str, found: Sequence[str], settings: Settings) -> Iterator[Finding]:
    """Compare the endpoints with the addresses of the workers, where both are sockets or loopback."""
    section = [getattr(for_worker(settings, worker), name) for worker in range(settings.workers)]
    listens = [address for own in section for address in own.listen]
    if any(isinstance(address, TcpAddress) and not address.port for address in listens):
        return
    lacking = [str(address) for address in listens if not any(_same(address, one) for one in found)]
    if len(lacking) == len(listens):
        seen = f"has {', '.join(found)}, and {name} listens on {', '.join(map(str, listens))}"
        yield warn(check, seen, "write the address of `listen` into its load_assignment")
    elif lacking and settings.workers > 1:
        seen = f"lacks {', '.join(lacking)}"
        yield warn(check, seen, "list each worker as an endpoint: those that are not get no calls")


def _same(address: Address, endpoint: str) -> bool:
    if isinstance(address, UnixAddress):
        return endpoint == f"unix:{address.path}"
    try:
        here = ip_address(address.host)
    except ValueError:
        here = None  # Envoy shows the address of a name
    any_host = here is None or here.is_unspecified
    return endpoint == str(address) or (any_host and endpoint.rpartition(":")[2] == str(address.port))


def _address_of(address: Config) -> str:
    pipe = value(address, "pipe.path")
    if pipe is not None:
        return f"unix:{pipe}"
    socket = address.get("socket_address", {})
    return str(TcpAddress(str(socket.get("address", "?")), int(socket.get("port_value", 0))))


def _disabled(config: EnvoyConfig, kind: str) -> Iterator[Finding]:
    for part in config.filters(kind):
        if part.config.get("disabled"):
            seen = "disabled: only the routes that enable it ask the sidecar"
            yield warn(f"envoy {part.place} {part.config.get('name')}", seen, "remove disabled: true")


def _of_authz(config: EnvoyConfig, settings: Settings) -> Iterator[Finding]:
    yield from _disabled(config, kinds.EXT_AUTHZ)
    for part in config.parts(kinds.EXT_AUTHZ):
        check = f"envoy {part.place} ext_authz"
        body = advice.WITH_BODY if "with_request_body" in part.config else ()
        yield from advice.advise(check, part.config, (*advice.EXT_AUTHZ, *body))
    skipped = [
        part.place
        for part in config.overrides(kinds.EXT_AUTHZ, kinds.EXT_AUTHZ_PER_ROUTE)
        if part.config.get("disabled")
    ]
    if skipped:
        seen = f"turned off for {', '.join(skipped[:10])}"
        yield warn(
            "envoy ext_authz routes", seen, "remove disabled: true, and write a rule that allows anyone"
        )
    tracing = settings.authz is not None and settings.authz.tracing is not None
    for part in config.parts(kinds.MANAGER):
        if tracing and "tracing" not in part.config:
            seen = "authz sends spans, and Envoy begins no trace"
            yield warn(f"envoy {part.place} tracing", seen, "add tracing to the HTTP connection manager")


def _of_ratelimit(config: EnvoyConfig, domains: Collection[str]) -> Iterator[Finding]:
    yield from _disabled(config, kinds.RATE_LIMIT)
    for part in config.parts(kinds.RATE_LIMIT):
        check = f"envoy {part.place} ratelimit"
        domain = part.config.get("domain", "")
        if domains and domain not in domains:
            seen = f"domain is {domain}, and there are limits for {', '.join(sorted(domains))}: none applies"
            yield fail(check, seen, "write the domain of the limits file")
        yield from advice.advise(check, part.config, advice.RATE_LIMIT)
        service = "rate_limit_service.grpc_service.retry_policy.retry_back_off.max_interval"
        longest = kinds.seconds(value(part.config, service))
        timeout = kinds.seconds(part.config.get("timeout")) or 0.02
        if longest is not None and longest < timeout:
            seen = (
                f"max_interval of the retries is {longest:g}s, which Envoy 1.40 takes as timeout of each try"
            )
            yield warn(check, seen, f"write max_interval: {timeout:g}s, as the timeout of the filter")
    off = [
        part.place
        for part in config.overrides(kinds.RATE_LIMIT, kinds.FILTER_CONFIG)
        if part.config.get("disabled")
    ]
    if off:
        fix = "remove disabled: true, unless that is what you want"
        yield warn("envoy ratelimit routes", f"turned off for {', '.join(off[:10])}", fix)
    own = [place for place, host, route in config.routes() if _drops_limits(host, route)]
    if own:
        seen = f"the limits of the virtual host do not apply to {', '.join(own[:10])}"
        fix = "write vh_rate_limits: INCLUDE in its RateLimitPerRoute, unless that is what you want"
        yield warn("envoy ratelimit routes", seen, fix)


def _drops_limits(host: Config, route: Config) -> bool:
    """Whether the limits of the virtual host do not apply to the route (RateLimitPerRoute.vh_rate_limits)."""
    per_route = next(kinds.typed(route.get("typed_per_filter_config", {}), kinds.RATE_LIMIT_PER_ROUTE), {})
    option = per_route.get("vh_rate_limits", "OVERRIDE")
    has_own = bool(value(route, "route.rate_limits"))
    return bool(host.get("rate_limits")) and (option == "IGNORE" or (option == "OVERRIDE" and has_own))


def _of_managers(config: EnvoyConfig, settings: Settings) -> Iterator[Finding]:
    for part in config.parts(kinds.MANAGER):
        if not _asks_us(part):
            continue
        yield from advice.advise(f"envoy {part.place}", part.config, advice.MANAGER)
        yield from _of_order(part)
        if settings.authz is None:
            continue
        hops, ours = int(part.config.get("xff_num_trusted_hops", 0)), settings.authz.trusted_hops
        if hops != ours:
            seen = f"xff_num_trusted_hops is {hops}, authz.trusted_hops is {ours}: who is the client?"
            yield fail(f"envoy {part.place}", seen, "write the same number for both")


def _of_order(manager: Part) -> Iterator[Finding]:
    filters: Sequence[Mapping[str, Any]] = manager.config.get("http_filters", ())
    types = [str(value(one, "typed_config.@type", "")) for one in filters]
    order = [kind for one in types for kind in (kinds.EXT_AUTHZ, kinds.RATE_LIMIT) if one.endswith(kind)]
    if (
        order and kinds.EXT_AUTHZ in order[order.index(kinds.RATE_LIMIT) :]
        if kinds.RATE_LIMIT in order
        else False
    ):
        seen = "ratelimit comes before ext_authz, so no limit can count by subject"
        yield warn(f"envoy {manager.place}", seen, "put ext_authz first")


def _asks_us(manager: Part) -> bool:
    asking = [kind for kinds_of_service, _ in _SERVICES.values() for kind in kinds_of_service]
    return any(next(kinds.typed(manager.config, kind), None) is not None for kind in asking)
