"""The template context for Sovereign, the control plane: resources that templates serve or change."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from edge.build.encode import Encoded, document, encode, long_list
from edge.build.envoy_routes import ROUTES_NAME
from edge.build.xds import CLUSTER, LISTENER, ROUTE_CONFIGURATION, typed
from edge.intent.model import Service

SOVEREIGN_CLUSTER: Final = "sovereign"
"""The cluster in Envoy's bootstrap from which it polls Sovereign."""
POLL_DELAY: Final = "5s"

SOVEREIGN_RDS: Final[Mapping[str, Any]] = {
    "rds": {
        "route_config_name": ROUTES_NAME,
        "config_source": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "REST",
                "transport_api_version": "V3",
                "cluster_names": [SOVEREIGN_CLUSTER],
                "refresh_delay": POLL_DELAY,
            },
        },
    }
}
"""Where Envoy gets its routes: Sovereign answers polls in JSON."""


def sovereign_context(
    revision: str, services: Iterable[Service], listener: bytes, routes: bytes, clusters: Iterable[bytes]
) -> bytes:
    """Return the context: a list of resources for each type, and what a template may choose services by."""
    return document(
        {
            "revision": revision,
            "listeners": Encoded(long_list([typed(LISTENER, listener)])),
            "routes": Encoded(long_list([typed(ROUTE_CONFIGURATION, routes)])),
            "clusters": Encoded(long_list(typed(CLUSTER, cluster) for cluster in clusters)),
            "services": Encoded(long_list(encode(_about(service)) for service in services)),
        }
    )


def _about(service: Service) -> dict[str, Any]:
    about = {"name": service.name, "owner": service.owner, "hosts": [str(host) for host in service.hosts]}
    return {**about, "tier": service.tier} if service.tier else about
