"""What an ADS client says: the requests of a stream, and the wait before the next one. No I/O.

The protocol is that of Envoy's xDS documentation, "xDS REST and gRPC protocol", state of the world: the first
request of a stream asks, each later one answers the last response by its nonce. An answer with the version of
the response accepts it (ACK); one with an error and the version before rejects it (NACK).
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from protos.core_pb2 import Node
from protos.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

TYPE_URL: Final = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

INVALID_ARGUMENT: Final = 3
"""google.rpc.Code, as Envoy rejects with."""

MAX_REASON: Final = 4_096
"""Characters of a reason: a server logs it, and a set of limits can have thousands of problems."""

MAX_DOUBLINGS: Final = 16


class Conversation:
    """The requests of this node; `version` is that of the last response that was accepted."""

    def __init__(self, node_id: str, cluster: str, metadata: Mapping[str, Any], agent: str) -> None:
        self._node = Node(id=node_id, cluster=cluster, user_agent_name="edge-sidecars")
        self._node.user_agent_version = agent
        ParseDict(dict(metadata), self._node.metadata)
        self.version = ""

    def first(self) -> DiscoveryRequest:
        """The request that a stream begins with."""
        return DiscoveryRequest(version_info=self.version, node=self._node, type_url=TYPE_URL)

    def accepted(self, response: DiscoveryResponse) -> DiscoveryRequest:
        """The answer to a response that is in service."""
        self.version = response.version_info
        return DiscoveryRequest(version_info=self.version, type_url=TYPE_URL, response_nonce=response.nonce)

    def rejected(self, response: DiscoveryResponse, reason: str) -> DiscoveryRequest:
        """The answer to a response that is not used, with the reason."""
        request = DiscoveryRequest(
            version_info=self.version, type_url=TYPE_URL, response_nonce=response.nonce
        )
        request.error_detail.code = INVALID_ARGUMENT
        request.error_detail.message = reason[:MAX_REASON]
        return request


def backoff_seconds(failures: int, least: float, most: float, random: float) -> float:
    """The wait after so many failures in a row (from 1): doubling, less a `random` half (in [0, 1))."""
    longest = min(most, least * 2.0 ** min(failures - 1, MAX_DOUBLINGS))
    return longest * (1 - random / 2)
