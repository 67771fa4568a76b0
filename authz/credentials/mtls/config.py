"""The `mtls:` of the credentials block."""

import re
from ipaddress import IPv6Network
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from common.configfile import Block, Spelled
from common.urls import Network

_IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")
"""The addresses of IPv4 peers on a listener for both families (RFC 4291 section 2.5.5.2)."""
_WITHIN_HOST: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:)(?:/|//(?P<host>[^/]*))?\*")


def _past_the_host(principal: str) -> str:
    """Refuse a prefix that ends within the host: `spiffe://prod*` would match `spiffe://prod-two/x` too."""
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
"""A principal, or a prefix that ends in `*`: `spiffe://prod.example/*`."""


class ForwardedConfig(Block):
    """The header `x-forwarded-client-cert` of proxies in front of this Envoy."""

    trusted_peers: tuple[Principal, ...] = ()
    """The principals, by their own certificates, of the trusted proxies."""
    trusted_networks: tuple[Network, ...] = ()
    """The networks of the trusted proxies. Weaker than a certificate: for a closed mesh only."""
    depth: Annotated[int, Field(ge=1, le=8)] = 1
    """Which element of the header describes the client, counted from the right. It is 1 if the proxy replaces
    the header (SANITIZE_SET) and this Envoy leaves it as it is (FORWARD_ONLY, ALWAYS_FORWARD_ONLY). Add one
    for every later proxy that appends, including this Envoy."""
    names: Annotated[tuple[Literal["uri", "dns", "subject"], ...], Field(min_length=1)] = ("uri",)
    """The kinds of name in the certificate that may identify the caller; the first present one counts."""

    @model_validator(mode="after")
    def _names_a_proxy(self) -> "ForwardedConfig":
        if not self.trusted_peers and not self.trusted_networks:
            raise ValueError("name the trusted_peers or trusted_networks whose header is trusted")
        for network in self.trusted_networks:
            if network.version == 6 and network.subnet_of(_IPV4_MAPPED):
                raise ValueError(f"{network} never matches a peer: write the IPv4 network")
        return self


class MtlsConfig(Block):
    """Client certificates, verified by Envoy. They count if a request has no other credential."""

    principals: Annotated[tuple[Principal, ...], Field(min_length=1)]
    """The principals accepted as callers. Others are refused: a CA may issue certificates to anyone."""
    forwarded: ForwardedConfig | None = None
    """Trust in `x-forwarded-client-cert` from proxies in front of this Envoy. Ignored, unless set."""
