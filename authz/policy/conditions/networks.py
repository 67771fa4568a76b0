"""A set of IP networks whose look-up time grows with the logarithm of their number."""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any, Final

Network = IPv4Network | IPv6Network


def parse_network(value: Any) -> Network:
    """Parse a network. Raises ValueError that says what would be right."""
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{value!r}: expected a network, as in {_nearest(value)}") from None


def _nearest(value: Any) -> str:
    """Return the network that an address with a prefix is in: for `10.1.2.3/8`, `10.0.0.0/8`."""
    try:
        return str(ip_network(value if isinstance(value, str) else "", strict=False))
    except ValueError:
        return "10.0.0.0/8 or 2001:db8::/32"


class Networks:
    """Tests whether an address is in any of the networks."""

    __slots__ = ("_ranges",)

    def __init__(self, networks: Iterable[Network]) -> None:
        by_version: dict[int, list[Network]] = {}
        for network in networks:
            by_version.setdefault(network.version, []).append(network)
        # The first and the last addresses of the networks of one version, which do not overlap.
        self._ranges: dict[int, tuple[list[int], list[int]]] = {}
        for version, members in by_version.items():
            apart = sorted(collapse_addresses(members))  # type: ignore[type-var]
            begins = [int(network.network_address) for network in apart]
            self._ranges[version] = (begins, [int(network.broadcast_address) for network in apart])

    def hold(self, text: str) -> bool | None:
        """Whether the address is in one of the networks; None if the text is not an address."""
        try:
            address = ip_address(text)
        except ValueError:
            return None
        # A dual-stack listener reports 192.0.2.1 as ::ffff:192.0.2.1.
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        ranges = self._ranges.get(address.version)
        if ranges is None:
            return False
        begins, ends = ranges
        place = bisect_right(begins, int(address)) - 1
        return place >= 0 and int(address) <= ends[place]


def parse_client_network(value: Any) -> Network:
    """Parse a network of clients. Raises ValueError that says what would be right.

    A network of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) is refused, because clients with such an
    address are compared as IPv4 clients.
    """
    network = parse_network(value)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        inner = ip_network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        raise ValueError(
            f"{value!r} never contains a client: mapped addresses are compared as IPv4; write {inner}"
        )
    return network


_MAPPED: Final = IPv6Network("::ffff:0:0/96")
