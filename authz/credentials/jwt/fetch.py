"""The GET of a key set or of an OpenID configuration."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from authz.credentials.core.http import (
    MAX_DOCUMENT_BYTES,
    FetchError,
    PublicResolver,
    connector_to,
    read_body,
    told,
)
from authz.credentials.core.outbound import authorities, proxy_for
from authz.credentials.jwt.config import KeySetConfig

Fetch = Callable[[KeySetConfig], Awaitable[bytes]]
"""Returns the document at the URL; raises FetchError."""


async def fetch(config: KeySetConfig) -> bytes:
    """The document at `config.url`. Raises FetchError.

    Follows no redirect, takes no compressed body, reads at most MAX_DOCUMENT_BYTES, ends after
    `timeout_seconds`, and connects to no private address that is not listed, whatever the name
    resolves to: a key set is one of the few things an outsider can make a proxy fetch.
    """
    url = config.url or ""
    resolver = PublicResolver(config.allow_addresses)
    try:
        resolver.check_url(url)
        proxy = proxy_for(url, config.proxy)
        tls = await asyncio.to_thread(authorities, config.ca_file)
        async with (
            asyncio.timeout(config.timeout_seconds),
            # A connection each time: five minutes apart none would stay open, and the name may move.
            connector_to(proxy, resolver, tls, force_close=True) as connector,
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.get(
                url,
                allow_redirects=False,
                proxy=None if proxy is None else proxy.url,
                proxy_headers=None if proxy is None else proxy.headers,
                headers={
                    "accept": "application/jwk-set+json, application/json",
                    "accept-encoding": "identity",
                },
            ) as response,
        ):
            return await read_body(response, MAX_DOCUMENT_BYTES)
    except TimeoutError as error:
        raise FetchError(f"no answer within {config.timeout_seconds:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError(told(error)) from error
