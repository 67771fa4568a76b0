"""Brings the host of a request into its canonical form."""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

MAX_HOST_CHARACTERS: Final = 262
"""The longest host: a DNS name of 253 characters, a trailing dot, a colon and a port."""

HOSTS_REMEMBERED: Final = 1_024
"""The most hosts whose canonical form is cached: more than one Envoy usually serves."""

_DNS_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PORT: Final = re.compile(r"(?::[0-9]{0,5})?")


class MalformedHostError(ValueError):
    """The text is not exactly one host. The message is for operators and contains no user information."""


@lru_cache(maxsize=HOSTS_REMEMBERED)
def canonical_host(host: str) -> str:
    """Return the host in lower case, without port and one trailing dot; an IPv6 literal keeps its brackets.

    Raises MalformedHostError if it is empty, a list, has user information (RFC 9110 section 4.2.4), or has
    characters other than letters, digits, `-`, `_` and `.` (internationalised names are sent as A-labels).
    """
    if len(host) <= MAX_HOST_CHARACTERS and host.isascii():
        host = host.lower()
        if _DNS_NAME.fullmatch(host):
            return host
        if host.startswith("["):
            return _canonical_ipv6(host)
        name, colon, port = host.partition(":")
        name = name.removesuffix(".")
        if _PORT.fullmatch(colon + port) and _DNS_NAME.fullmatch(name):
            return name
    raise _malformed(host)


def _malformed(host: str) -> MalformedHostError:
    # The text before an @ may be a password.
    user, _, name = host.rpartition("@")
    return MalformedHostError(
        f"host {name[:MAX_HOST_CHARACTERS]!r}{' with user information' if user else ''}"
    )


def _canonical_ipv6(host: str) -> str:
    literal, bracket, port = host[1:].partition("]")
    try:
        address = IPv6Address(literal)
    except AddressValueError:
        raise _malformed(host) from None
    if not bracket or not _PORT.fullmatch(port) or address.scope_id is not None:
        raise _malformed(host)
    return f"[{address}]"
