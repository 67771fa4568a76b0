"""Patterns of upstreams: which addresses a service may send requests to."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from authz.policy.types.pattern import HostPattern, parse_host
from edge.intent.claims import host_includes
from edge.intent.embedded_ipv4 import embedded_addresses
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
        return self.network is not None and any(one in self.network for one in _spellings(found))

    def may_be_reached(self, address: str) -> bool:
        """Return whether HOST:PORT is one of these, or an IPv6 address that may lead to one of them."""
        if self.covers(address):
            return True
        try:
            found = ip_address(host_of(address))
        except ValueError:
            return False
        if self.network is None or not isinstance(found, IPv6Address):
            return False
        return any(one in self.network for one in embedded_addresses(found))


def _spellings(address: IPv4Address | IPv6Address) -> Sequence[IPv4Address | IPv6Address]:
    """Return the address, and that of IPv4 which a socket uses for `::ffff:a.b.c.d`."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (address,) if mapped is None else (address, mapped)


def parse_upstream_pattern(value: Any) -> UpstreamPattern:
    """Parse a pattern. Raises ValueError that says what would be right."""
    if isinstance(value, str):
        try:
            return UpstreamPattern(value, None, ip_network(value.strip("[]")))
        except ValueError:
            if "/" in value:
                raise ValueError(f"{value!r}: expected a network, as in 10.1.0.0/16") from None
    return UpstreamPattern(str(value), parse_host(value), None)
