"""The `mtls:` of the credentials block."""

import re
from ipaddress import IPv6Network
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from authz.credentials.core.block import Block
from authz.credentials.core.types import Network
from common.configfile import Spelled

_IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")
"""Peers with such an address are IPv4 peers of a listener for both (RFC 4291 section 2.5.5.2)."""
_WITHIN_HOST: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:)(?:/|//(?P<host>[^/]*))?\*")


def _past_the_host(principal: str) -> str:
    """Raises ValueError for a prefix of hosts: `spiffe://prod*` would mean `spiffe://prod-two/x` too."""
    found = _WITHIN_HOST.fullmatch(principal)
    if found is not None:
        raise ValueError(f"the * must come after the host: {found['scheme']}//{found['host'] or 'HOST'}/*")
    return principal


Principal = Annotated[
    str,
    Field(max_length=1024),
    Spelled(r"[^*]+\*?", "spiffe://prod/*"),
    AfterValidator(_past_the_host),
]
"""A principal, or the beginning of several, then `*`: `spiffe://prod.example/*`."""


class ForwardedConfig(Block):
    """The header `x-forwarded-client-cert` of proxies in front of this Envoy."""

    trusted_peers: tuple[Principal, ...] = ()
    """The principals (of their own certificates) of the proxies that are believed."""
    trusted_networks: tuple[Network, ...] = ()
    """The networks of the proxies that are believed. Weaker than a certificate: for a mesh of its own."""
    depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Which element of the header describes the client, counted from the right: 1 where the proxy replaces
    the header (SANITIZE_SET) and this Envoy leaves it as it is (FORWARD_ONLY, ALWAYS_FORWARD_ONLY); one more
    for every proxy after it that appends, this Envoy included."""
    names: Annotated[tuple[Literal["uri", "dns", "subject"], ...], Field(min_length=1)] = ("uri",)
    """Which name of the certificate is the caller's; the first that it has."""

    @model_validator(mode="after")
    def _from_somebody(self) -> "ForwardedConfig":
        if not self.trusted_peers and not self.trusted_networks:
            raise ValueError("name the trusted_peers or trusted_networks whose header is believed")
        for network in self.trusted_networks:
            if network.version == 6 and network.subnet_of(_IPV4_MAPPED):
                raise ValueError(f"{network} never holds a peer: write the IPv4 network")
        return self


class MtlsConfig(Block):
    """Client certificates, which Envoy has verified. They count where a request has no other credential."""

    principals: Annotated[tuple[Principal, ...], Field(min_length=1)]
    """Who may be a caller. Others are refused: who trusts a CA does not trust each of its certificates."""
    forwarded: ForwardedConfig | None = None
