"""Types and checks of settings that say which servers a process may reach."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema


def _network(value: Any) -> IPv4Network | IPv6Network:
    """Parse a network. Numbers are refused: `ip_network` would read `trusted_networks: [10]` as 0.0.0.10."""
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"{value!r}: expected a network, as in 10.0.0.0/8 or 2001:db8::/32") from None


def _proxy_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise ValueError("the proxy must look like http://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the proxy's password belongs in the environment (HTTPS_PROXY), not in this file")
    return url


ProxyUrl = Annotated[str, Field(max_length=1024), AfterValidator(_proxy_url)]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]


def check_url(url: str, *, allow_http: bool) -> None:
    """Raise ValueError for a URL that may not be fetched."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not allow_http:
        raise ValueError("the URL must be https (or say allow_http: true)")
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("the URL must look like https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL may not hold a user name or password")
