"""One bounded GET of a document that another server publishes."""

import re
import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from authz.credentials.core.outbound import Proxy
from common.os_errors import in_words
from common.urls import Network

MAX_DOCUMENT_BYTES: Final = 512 * 1024
"""The largest document read. A hundred RSA keys with certificate chains have about 400 KiB."""

MAX_CONNECTIONS: Final = 16
"""The most connections kept open to one server."""

_REMEDIES: Final = {
    "Missing Authority Key Identifier": (
        "RFC 5280 section 4.2.1.1; sign it with authorityKeyIdentifier=keyid"
    ),
    "Missing Subject Key Identifier": (
        "RFC 5280 section 4.2.1.2; make that of its authority with subjectKeyIdentifier=hash"
    ),
}
"""OpenSSL message -> how to fix a certificate that only strict verification refuses."""

_CHUNK_BYTES: Final = 16 * 1024


class FetchError(Exception):
    """The document could not be fetched; the message says why."""


class HttpStatusError(FetchError):
    """The server answered, but not with 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}, not 200")
        self.status = status


def connector_to(
    proxy: Proxy | None, resolver: AbstractResolver, tls: ssl.SSLContext, *, force_close: bool = False
) -> aiohttp.TCPConnector:
    """Return a connector that resolves servers with `resolver`. The operator's proxy needs no such check."""
    chosen = resolver if proxy is None else None
    return aiohttp.TCPConnector(resolver=chosen, ssl=tls, force_close=force_close, limit=MAX_CONNECTIONS)


def describe_error(error: Exception) -> str:
    """Describe for the operator why a server cannot be reached."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        why = getattr(cause, "verify_message", "") or str(cause)
        remedy = _REMEDIES.get(why, "see ca_file and SSL_CERT_FILE")
        return f"the certificate of {error.host} is not accepted: {why} ({remedy})"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered with HTTP status {error.status}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {error.host}:{error.port} cannot be reached: {in_words(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} cannot be resolved: {in_words(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        return f"{error.host}:{error.port} cannot be reached: {in_words(error.os_error)}"
    if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError | ssl.SSLError):
        return in_words(error)
    return str(error) or type(error).__name__


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body of a 200 response. Raises StatusError for another, FetchError for a longer body."""
    if response.status != 200:
        raise HttpStatusError(response.status)
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"the document is larger than {max_bytes} bytes")
    return bytes(body)


class PublicResolver(AbstractResolver):
    """Resolves host names, and refuses addresses that are neither public nor listed."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises FetchError if one of them may not be used."""
        resolver = aiohttp.ThreadedResolver()
        found = await resolver.resolve(host, port, family)
        for entry in found:
            self.check(entry["host"])
        return found

    async def close(self) -> None:
        """Do nothing: the resolver holds no resources."""

    def check_url(self, url: str) -> None:
        """Raise FetchError for a URL whose host is an address that may not be used."""
        # Parsed as the HTTP client does, which turns escapes and `。` in a host into dots.
        self.check(URL(url).raw_host or "")

    def check(self, host: str) -> None:
        """Raise FetchError for an address that may not be used. A name is checked once it is resolved."""
        try:
            address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
        except ValueError:
            if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
                raise FetchError(f"{host[:64]!r} is an address in an unusual form: write a.b.c.d") from None
            return
        if isinstance(address, IPv6Address):
            address = _inside(address) or address
        # Site-local addresses (RFC 3879) are private too, although Python calls them global.
        site_local = isinstance(address, IPv6Address) and address.is_site_local
        public = address.is_global and not address.is_multicast and not site_local
        if not public and not any(address in network for network in self._allowed):
            raise FetchError(f"{address} is not a public address, and allow_addresses does not list it")


_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE | re.ASCII)
"""The last label of a host that resolvers read as an address: `127.1`, `0x7f000001`."""

_IPV4_LAST: Final = tuple(
    IPv6Network(network)
    for network in (
        "::/96",  # IPv4-compatible, RFC 4291 section 2.5.5.1
        "64:ff9b::/96",  # NAT64, RFC 6052 section 2.1
        "64:ff9b:1::/48",  # local-use NAT64, RFC 8215
    )
)
"""IPv6 networks whose addresses end in the IPv4 address that they lead to."""


def _inside(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a gateway or the kernel derives from `address`, or None."""
    if int(address) > 1 and any(address in network for network in _IPV4_LAST):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
