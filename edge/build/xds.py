"""Resources as xDS servers send them: one DiscoveryResponse for each type, in JSON."""

from collections.abc import Iterable
from typing import Final

from edge.build.encode import Encoded, document, encode, long_list

LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_CONFIGURATION: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def discovery_response(type_url: str, revision: str, resources: Iterable[bytes]) -> bytes:
    """Return a DiscoveryResponse with these encoded resources; its version is the revision."""
    listed = long_list(typed(type_url, resource) for resource in resources)
    return document({"version_info": revision, "type_url": type_url, "resources": Encoded(listed)})


def typed(type_url: str, resource: bytes) -> bytes:
    """Return an encoded resource as a google.protobuf.Any."""
    return b'{"@type":' + encode(type_url) + b"," + resource[1:]
