"""What a platform file says about the Envoys: where they listen, and where they reach the sidecars."""

import re
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from authz.policy.types.names import AT_LEAST_ONE, HeaderName, OneOrMany, PolicyBlock, Text
from edge.intent.words import Address

_SOCKET: Final = re.compile(r"unix:(/[^\x00-\x1f\x7f?]{1,106})")
"""Linux allows 107 bytes for the path of a socket."""


class Endpoint(NamedTuple):
    """Where a server listens: the path of a unix socket, or a host (`socket` is empty then) and a port."""

    socket: str
    host: str = ""
    port: int = 0


def _sidecar(value: str) -> str:
    endpoint_of(value)
    return value


def endpoint_of(address: str) -> Endpoint:
    """Return the endpoint of `unix:/PATH` or `HOST:PORT`. Raises ValueError that says what would be right."""
    socket = _SOCKET.fullmatch(address)
    if socket:
        return Endpoint(socket[1])
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(
            f"{address!r}: expected unix:/PATH or HOST:PORT, as in unix:/run/sidecars/authz.sock"
        )
    return Endpoint("", host.strip("[]"), int(port))


SidecarAddress = Annotated[str, AfterValidator(_sidecar)]
SidecarAddresses = Annotated[tuple[SidecarAddress, ...], AT_LEAST_ONE, OneOrMany]


class EnvoyTlsConfig(PolicyBlock):
    """The certificate of the listener."""

    certificate_file: Text
    """The file on the edge with the certificate chain, in PEM."""
    key_file: Text
    """The file on the edge with the private key, in PEM."""


class EnvoyConfig(PolicyBlock):
    """The Envoys of the edge, which are all alike."""

    listen: Address = "0.0.0.0:10000"
    """The address and port of the listener."""
    tls: EnvoyTlsConfig | None = None
    """The certificate of the listener. Default: it accepts plain HTTP, for a load balancer that ends TLS."""
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """How many proxies in front of Envoy append to `x-forwarded-for`; the same as `trusted_hops` of authz."""
    authz: SidecarAddresses = ("unix:/run/sidecars/authz.sock",)
    """Where Envoy reaches authz: `unix:/PATH` or `HOST:PORT`. With several, it uses those that answer."""
    ratelimit: SidecarAddresses = ("unix:/run/sidecars/ratelimit.sock",)
    """Where Envoy reaches ratelimit."""
    accesslog: SidecarAddresses = ("unix:/run/sidecars/accesslog.sock",)
    """Where Envoy reaches accesslog."""
    log_request_headers: tuple[HeaderName, ...] = ("content-type", "traceparent", "x-forwarded-proto")
    """The request headers that Envoy sends to accesslog."""
    log_response_headers: tuple[HeaderName, ...] = (
        "content-type", "location", "www-authenticate", "x-ratelimit-limit", "x-ratelimit-remaining",
        "x-ratelimit-reset",
    )  # fmt: skip
    """The response headers that Envoy sends to accesslog."""
    max_regex_size: Annotated[int, Field(ge=10, le=10_000)] = 100
    """The longest regular expression for a path, in instructions of RE2: Envoy's runtime setting
    `re2.max_program_size.error_level`. Raise it in the bootstrap of every Envoy first."""
