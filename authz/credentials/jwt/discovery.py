"""Finds the key set of an issuer by OpenID Connect Discovery 1.0.

The document must name the configured issuer (section 4.3), and its `jwks_uri` may not lead to http or to a
host that the configuration does not name.
"""

from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from authz.credentials.core.types import looks_like
from authz.credentials.jwt.config import KeySetConfig
from common.urls import check_url

WELL_KNOWN: Final = "/.well-known/openid-configuration"


class DiscoveryError(ValueError):
    """The document does not say where the keys are."""


def discovery_url(config: KeySetConfig, issuer: str) -> str:
    """Return the URL of the OpenID configuration of `issuer` (section 4: one trailing slash is removed)."""
    if isinstance(config.discovery, str):
        return config.discovery
    return issuer.removesuffix("/") + WELL_KNOWN


def key_set_url(document: bytes, at: str, issuer: str, config: KeySetConfig) -> str:
    """Return the `jwks_uri` in `document`, which was fetched from `at`. Raises DiscoveryError."""
    try:
        content: Any = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise DiscoveryError(f"the OpenID configuration is {looks_like(document)}, not JSON") from None
    if not isinstance(content, dict):
        raise DiscoveryError("the OpenID configuration is not a JSON object")
    if content.get("issuer") != issuer:
        raise DiscoveryError(
            f"the OpenID configuration is of issuer {str(content.get('issuer'))[:200]!r}, not {issuer!r}"
        )
    url = content.get("jwks_uri")
    if not isinstance(url, str):
        raise DiscoveryError("the OpenID configuration has no jwks_uri")
    try:
        check_url(url, allow_http=config.allow_http)
        host = urlsplit(url).hostname
    except ValueError as error:
        raise DiscoveryError(f"its jwks_uri {url[:200]!r}: {error}") from None
    if host != urlsplit(at).hostname and host not in config.allow_hosts:
        raise DiscoveryError(f"its jwks_uri leads to {host!r}, which allow_hosts does not list")
    return url
