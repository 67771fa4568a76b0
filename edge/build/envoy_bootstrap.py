"""The bootstrap of an Envoy without a control plane: all resources in it, or in files that Envoy follows."""

from typing import Any, Final

from edge.build.encode import Encoded
from edge.intent.envoy_block import EnvoyConfig

MAX_HEAP_BYTES: Final = 2_147_483_648
_MONITORS: Final = "envoy.resource_monitors"
_MONITOR_TYPE: Final = "type.googleapis.com/envoy.extensions.resource_monitors"


def static_bootstrap(envoy: EnvoyConfig, listener: dict[str, Any], clusters: Encoded) -> dict[str, Any]:
    """Return a Bootstrap with all resources."""
    return {**_bootstrap(envoy), "static_resources": {"listeners": [listener], "clusters": clusters}}


def following_bootstrap(envoy: EnvoyConfig, listeners: str, clusters: str) -> dict[str, Any]:
    """Return a Bootstrap that names the files with listeners and clusters, relative to where Envoy starts."""
    resources = {"lds_config": following(listeners), "cds_config": following(clusters)}
    return {**_bootstrap(envoy), "dynamic_resources": resources}


def following(path: str) -> dict[str, Any]:
    """Return a ConfigSource of a file, which Envoy reads again whenever another file is moved there."""
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def _bootstrap(envoy: EnvoyConfig) -> dict[str, Any]:
    """Return what both have. Every Envoy has the node id `edge`; --service-node sets another one."""
    return {
        "node": {"id": "edge", "cluster": "edge"},
        # Its pages change and stop Envoy: keep it on loopback.
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}},
        "layered_runtime": {
            "layers": [
                {
                    "name": "edge",
                    "static_layer": {"re2": {"max_program_size": {"error_level": envoy.max_regex_size}}},
                },
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "overload_manager": _overload_manager(),
    }


def _overload_manager() -> dict[str, Any]:
    """Return what makes Envoy release memory, then refuse requests, before it has none left."""
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": f"{_MONITORS}.fixed_heap",
                "typed_config": {
                    "@type": f"{_MONITOR_TYPE}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": MAX_HEAP_BYTES,
                },
            },
            {
                "name": f"{_MONITORS}.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_MONITOR_TYPE}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 50000,
                },
            },
        ],
        "actions": [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": f"{_MONITORS}.fixed_heap", "threshold": {"value": threshold}}],
            }
            for action, threshold in (("shrink_heap", 0.95), ("stop_accepting_requests", 0.98))
        ],
    }
