"""Patterns of upstreams: which addresses a service may send requests to."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from authz.policy.types.pattern import HostPattern, parse_host
from edge.intent.claims import host_includes
from edge.intent.words import host_of


@dataclass(frozen=True, slots=True)
class UpstreamPattern:
    """A host name, `*.NAME`, or a network of addresses."""

    text: str
    host: HostPattern | None
    network: IPv4Network | IPv6Network | None

    def __str__(self) -> str:
        return self.text

    def covers(self, address: str) -> bool:
        """Return whether HOST:PORT is one of these. Names are not resolved."""
        host = host_of(address)
        try:
            found = ip_address(host)
        except ValueError:
            return self.host is not None and host_includes(self.host, HostPattern(host))
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return self.network is not None and found in self.network


def parse_upstream_pattern(value: Any) -> UpstreamPattern:
    """Parse a pattern. Raises ValueError that says what would be right."""
    if isinstance(value, str):
        try:
            return UpstreamPattern(value, None, ip_network(value.strip("[]")))
        except ValueError:
            if "/" in value:
                raise ValueError(f"{value!r}: expected a network, as in 10.1.0.0/16") from None
    return UpstreamPattern(str(value), parse_host(value), None)
