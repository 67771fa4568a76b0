"""IPv4 addresses inside IPv6 addresses: a translator or tunnel on the way sends such a request to them."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

_LAST_32_BITS: Final = (
    IPv6Network("::/96"),  # IPv4-compatible: RFC 4291 section 2.5.5.1
    IPv6Network("::ffff:0:0/96"),  # IPv4-mapped: RFC 4291 section 2.5.5.2
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated: RFC 7915, RFC 2765
    IPv6Network("64:ff9b::/96"),  # NAT64: RFC 6052
)
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""RFC 8215. The operator chooses the length of the prefix in it."""

_LOCAL_NAT64_LENGTHS: Final = (48, 56, 64, 96)
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The third quarter of an address of RFC 5214."""

_MASK: Final = 0xFFFF_FFFF


def embedded_addresses(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield each IPv4 address to which the IPv6 address may lead, whichever translators there are."""
    value = int(address)
    if any(address in network for network in _LAST_32_BITS) or value >> 32 & _MASK in _ISATAP:
        yield IPv4Address(value & _MASK)
    if address in _LOCAL_NAT64:
        yield from (_behind_prefix(value, length) for length in _LOCAL_NAT64_LENGTHS)
    if address.sixtofour is not None:  # RFC 3056
        yield address.sixtofour
    if address.teredo is not None:  # RFC 4380
        yield from address.teredo


def _behind_prefix(value: int, length: int) -> IPv4Address:
    """Return the IPv4 address after a prefix of that length: RFC 6052 section 2.2 skips bits 64 to 71."""
    if length == 96:
        return IPv4Address(value & _MASK)
    high, low = value >> 64, value & (1 << 56) - 1  # without the bits 64 to 71
    joined = high << 56 | low
    return IPv4Address(joined >> 120 - length - 32 & _MASK)
