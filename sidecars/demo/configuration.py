"""The demo's configuration: the files that users start from, with its own addresses in them.

The files in `files/` are links to `examples/` and `envoy-test/`, so whoever runs the demo runs these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configfile import read

FILES = Path(__file__).parent / "files"

SIDECARS = ("authz", "ratelimit", "accesslog")

PATIENCE_SECONDS = 5
"""The demo shows decisions, not latency: on a machine busy with installing, 20 ms are soon over."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is, in this run."""

    folder: Path
    """Everything that the run writes."""
    edge_port: int
    """Envoy's; 0 asks for a free one."""
    upstream_port: int
    idp_port: int

    @property
    def settings_file(self) -> Path:
        """The settings of the sidecars."""
        return self.folder / "sidecars.yaml"

    @property
    def policy_file(self) -> Path:
        """The policy of authz."""
        return self.folder / "policy.yaml"

    @property
    def access_log(self) -> Path:
        """The access log, one JSON object a line."""
        return self.folder / "access.jsonl"

    @property
    def admin_socket(self) -> Path:
        """Where the sidecars' admin server listens."""
        return self.folder / "admin.sock"

    def socket(self, sidecar: str) -> Path:
        """Where the sidecar listens for Envoy."""
        return self.folder / f"{sidecar}.sock"


def write_sidecar_files(places: Places, api_key_hash: str) -> None:
    """Write the settings, policy and limits of the sidecars into the folder of the run."""
    settings = read(FILES / "sidecars.yaml").data
    settings["admin"] = {"listen": f"unix:{places.admin_socket}"}
    for name in SIDECARS:
        settings[name]["listen"] = [f"unix:{places.socket(name)}"]
    settings["accesslog"]["sinks"] = [{"type": "file", "path": str(places.access_log)}]
    # Ctrl-C should not take its time: nobody watches the readiness of a demo.
    settings["drain"] = {"announce_seconds": 0, "grace_seconds": 2, "flush_seconds": 2}
    settings["accesslog"]["flush_seconds"] = 1
    settings["reload"] = {"interval_seconds": 0.2}
    # Its socket lies in the folder of the run, which is open to us alone.
    settings["authz"]["session_admin"] = True
    _write(places.settings_file, settings)

    policy = read(FILES / "policy.yaml").data
    credentials = policy["credentials"]
    credentials["issuers"][0]["jwks"]["url"] = f"http://127.0.0.1:{places.idp_port}/.well-known/jwks.json"
    credentials["api_keys"]["keys"][0]["sha256"] = api_key_hash
    credentials["wait_seconds"] = PATIENCE_SECONDS
    _write(places.policy_file, policy)

    limits = places.folder / "limits"
    limits.mkdir()
    for file in (FILES / "limits").glob("*.yaml"):
        (limits / file.name).write_bytes(file.read_bytes())


def envoy_configuration(places: Places) -> dict[str, Any]:
    """The configuration of `envoy-test/envoy.yaml` with the ports and sockets of this run."""
    configuration: dict[str, Any] = read(FILES / "envoy.yaml").data
    resources = configuration["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    for name in SIDECARS:
        _endpoint(clusters[name])["address"] = {"pipe": {"path": str(places.socket(name))}}
    _endpoint(clusters["upstream"])["address"]["socket_address"]["port_value"] = places.upstream_port
    for listener in resources["listeners"]:
        port = places.edge_port if listener["name"] == "edge" else 0
        listener["address"]["socket_address"]["port_value"] = port
    for name, filter_config in _http_filters(configuration).items():
        if name == "envoy.filters.http.ext_authz":
            filter_config["grpc_service"]["timeout"] = f"{PATIENCE_SECONDS}s"
        elif name == "envoy.filters.http.ratelimit":
            filter_config["timeout"] = f"{PATIENCE_SECONDS}s"
    return configuration


def _write(path: Path, data: Any) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def _endpoint(cluster: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    return found


def _http_filters(configuration: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    edge = configuration["static_resources"]["listeners"][0]
    manager = edge["filter_chains"][0]["filters"][0]["typed_config"]
    return {http_filter["name"]: http_filter["typed_config"] for http_filter in manager["http_filters"]}
