"""The demo's configuration: the example files, with the addresses of the demo.

The files in `files/` are links to `examples/` and `envoy-test/`, so the demo runs exactly these.
"""

import secrets
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from common.configfile import read

FILES: Final = Path(__file__).parent / "files"

SIDECARS: Final = ("authz", "ratelimit", "accesslog")

SECOND_AUTHZ: Final = "authz-2"
SECOND_EDGE: Final = "edge-2"
"""The name of the second authz, and of the Envoy listener that calls it."""

LOGIN_SESSION_COOKIE: Final = "__Host-session"
LOGIN_SCOPE: Final = "orders:read"
"""The cookie that the login application sets, and the scope of its sessions."""

PATIENCE_SECONDS: Final = 5
"""The demo shows decisions, not latency, and 20 ms are too short on a busy machine."""


@dataclass(frozen=True, slots=True)
class CredentialLocations:
    """The files and addresses of one run."""

    folder: Path
    """The folder for all files of the run."""
    edge_port: int
    """The port of Envoy; 0 for a free one."""
    upstream_port: int
    idp_port: int
    redis_url: str | None = None
    """The Redis that two authz sidecars share. None: there is one authz, with memory stores."""
    console_port: int | None = None
    """The port on 127.0.0.1 of the admin pages for a browser. None: they are on a unix socket only."""
    login: bool = False
    """Whether the sample login application runs."""

    @property
    def settings_file(self) -> Path:
        """The settings of the sidecars."""
        return self.folder / "sidecars.yaml"

    @property
    def other_settings_file(self) -> Path:
        """The settings of the second authz."""
        return self.folder / "sidecars-2.yaml"

    @property
    def policy_file(self) -> Path:
        """The policy of authz."""
        return self.folder / "policy.yaml"

    @property
    def access_log(self) -> Path:
        """The access log, one JSON object on each line."""
        return self.folder / "access.jsonl"

    @property
    def admin_socket(self) -> Path:
        """The address of the sidecars' admin server."""
        return self.folder / "admin.sock"

    @property
    def other_admin_socket(self) -> Path:
        """The address of the second authz's admin server."""
        return self.folder / "admin-2.sock"

    @property
    def login_socket(self) -> Path:
        """The address of the login application."""
        return self.folder / "login.sock"

    @property
    def sessions_socket(self) -> Path:
        """The address of the sessions API of authz."""
        return self.folder / "sessions.sock"

    @property
    def sessions_token(self) -> Path:
        """The token of the login application for the sessions API."""
        return self.folder / "sessions.token"

    def socket(self, sidecar: str) -> Path:
        """Return the address of the sidecar for Envoy."""
        return self.folder / f"{sidecar}.sock"


def write_sidecar_files(
    places: CredentialLocations,
    api_key_hash: str,
    change: Callable[[dict[str, Any]], None] = lambda _settings: None,
) -> None:
    """Write the settings, policy and limits of the sidecars into the folder of the run.

    `change` may change the settings.
    """
    settings = read(FILES / "sidecars.yaml").data
    settings["admin"] = {"listen": f"unix:{places.admin_socket}"}
    if places.console_port is not None:
        settings["admin"]["also_listen"] = [f"127.0.0.1:{places.console_port}"]
    for name in SIDECARS:
        settings[name]["listen"] = [f"unix:{places.socket(name)}"]
    settings["accesslog"]["sinks"] = [{"type": "file", "path": str(places.access_log)}]
    # Ctrl-C should be quick, and no load balancer watches the readiness of a demo.
    settings["drain"] = {"drain_delay_seconds": 0, "grace_seconds": 2, "flush_seconds": 2}
    settings["accesslog"]["flush_seconds"] = 1
    settings["reload"] = {"interval_seconds": 0.2}
    # Its sessions are worth nothing outside the demo, which other users of this machine may play with, too.
    settings["authz"]["session_admin"] = True
    if places.login:
        _add_sessions_api(places, settings["authz"])
    if places.redis_url is not None:
        patience_ms = PATIENCE_SECONDS * 1000
        settings["redis"] = {
            "url": places.redis_url,
            "connect_timeout_ms": patience_ms,
            "operation_timeout_ms": patience_ms,
        }
        _write(places.other_settings_file, _of_second_authz(places, settings))
    change(settings)
    _write(places.settings_file, settings)

    policy = read(FILES / "policy.yaml").data
    credentials = policy["credentials"]
    credentials["issuers"][0]["jwks"]["url"] = f"http://127.0.0.1:{places.idp_port}/.well-known/jwks.json"
    credentials["api_keys"]["keys"][0]["sha256"] = api_key_hash
    credentials["lookup_timeout_seconds"] = PATIENCE_SECONDS
    if places.login:
        credentials["sessions"]["locations"] = [{"cookie": "session"}, {"cookie": LOGIN_SESSION_COOKIE}]
        (places.folder / "login.yaml").write_bytes((FILES / "login" / "policy.yaml").read_bytes())
    if places.redis_url is not None:
        credentials["sessions"]["store"] = "redis"
        credentials["revocations"] = {"store": "redis"}
    _write(places.policy_file, policy)

    limits = places.folder / "limits"
    limits.mkdir()
    for file in (FILES / "limits").glob("*.yaml"):
        (limits / file.name).write_bytes(file.read_bytes())


def envoy_configuration(places: CredentialLocations) -> dict[str, Any]:
    """Return the configuration of `envoy-test/envoy.yaml` with the ports and sockets of this run."""
    configuration: dict[str, Any] = read(FILES / "envoy.yaml").data
    resources = configuration["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    for name in SIDECARS:
        _endpoint(clusters[name])["address"] = {"pipe": {"path": str(places.socket(name))}}
    if places.login:
        _add_login(places, resources)
    if places.redis_url is not None:
        _add_second_authz(places, resources)
    _endpoint(clusters["upstream"])["address"]["socket_address"]["port_value"] = places.upstream_port
    for listener in resources["listeners"]:
        port = places.edge_port if listener["name"] == "edge" else 0
        listener["address"]["socket_address"]["port_value"] = port
    for listener in _http_listeners(resources):
        filters = http_filters(listener)
        filters["envoy.filters.http.ext_authz"]["grpc_service"]["timeout"] = f"{PATIENCE_SECONDS}s"
        limits = filters["envoy.filters.http.ratelimit"]
        limits["timeout"] = f"{PATIENCE_SECONDS}s"
        retries = limits["rate_limit_service"]["grpc_service"]["retry_policy"]
        retries["retry_back_off"]["max_interval"] = f"{PATIENCE_SECONDS}s"
    return configuration


def http_manager(listener: Mapping[str, Any]) -> dict[str, Any]:
    """Return the HTTP connection manager of an HTTP listener."""
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def http_filters(listener: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configuration of each HTTP filter of an HTTP listener, by name."""
    filters = http_manager(listener)["http_filters"]
    return {http_filter["name"]: http_filter["typed_config"] for http_filter in filters}


def _add_sessions_api(places: CredentialLocations, authz: dict[str, Any]) -> None:
    places.sessions_token.touch(mode=0o600)
    places.sessions_token.write_text(secrets.token_hex(32), encoding="ascii")
    client = {
        "name": "login",
        "token_file": str(places.sessions_token),
        "may": ["create", "show", "revoke"],
        "scopes": [LOGIN_SCOPE],
    }
    authz["sessions_api"] = {"listen": f"unix:{places.sessions_socket}?mode=0600", "clients": [client]}
    authz["policy"] = [*authz["policy"], "login.yaml"]


def _add_login(places: CredentialLocations, resources: dict[str, Any]) -> None:
    """Route /auth/ to the login application."""
    cluster = deepcopy(next(one for one in resources["clusters"] if one["name"] == "upstream"))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = "login"
    _endpoint(cluster)["address"] = {"pipe": {"path": str(places.login_socket)}}
    resources["clusters"].append(cluster)
    route = {"name": "auth", "match": {"prefix": "/auth/"}, "route": {"cluster": "login", "timeout": "15s"}}
    for listener in _http_listeners(resources):
        http_manager(listener)["route_config"]["virtual_hosts"][0]["routes"].insert(0, deepcopy(route))


def _of_second_authz(places: CredentialLocations, settings: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: settings[name] for name in ("log", "redis", "drain", "reload")}
    authz = {**settings["authz"], "listen": [f"unix:{places.socket(SECOND_AUTHZ)}"]}
    authz.pop("sessions_api", None)  # the login application uses that of the first
    return {**shared, "admin": {"listen": f"unix:{places.other_admin_socket}"}, "authz": authz}


def _add_second_authz(places: CredentialLocations, resources: dict[str, Any]) -> None:
    """Return a copy of the edge listener whose requests the second authz decides."""
    cluster = deepcopy(next(one for one in resources["clusters"] if one["name"] == "authz"))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = SECOND_AUTHZ
    _endpoint(cluster)["address"] = {"pipe": {"path": str(places.socket(SECOND_AUTHZ))}}
    resources["clusters"].append(cluster)
    listener = deepcopy(next(one for one in resources["listeners"] if one["name"] == "edge"))
    listener["name"] = SECOND_EDGE
    asked = http_filters(listener)["envoy.filters.http.ext_authz"]["grpc_service"]["envoy_grpc"]
    asked["cluster_name"] = SECOND_AUTHZ
    resources["listeners"].append(listener)


def _http_listeners(resources: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in resources["listeners"] if one["name"] in {"edge", SECOND_EDGE}]


def _write(path: Path, data: Any) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def _endpoint(cluster: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    return found
