"""Fetches a key set or an OpenID configuration."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from authz.credentials.core.http import (
    MAX_DOCUMENT_BYTES,
    FetchError,
    PublicResolver,
    connector_to,
    describe_error,
    read_body,
)
from authz.credentials.core.outbound import authorities, proxy_for
from authz.credentials.jwt.config import KeySetConfig

Fetch = Callable[[KeySetConfig], Awaitable[bytes]]
"""A function that returns the document at the URL; raises FetchError."""


async def fetch(config: KeySetConfig) -> bytes:
    """Return the document at `config.url`. Raises FetchError.

    Follows no redirect, accepts no compressed body, reads at most MAX_DOCUMENT_BYTES, and ends after
    `timeout_seconds`. Refuses private addresses that are not listed, even if the name resolves to one:
    an outsider can cause this fetch.
    """
    url = config.url or ""
    resolver = PublicResolver(config.allow_addresses)
    try:
        resolver.check_url(url)
        proxy = proxy_for(url, config.proxy)
        tls = await asyncio.to_thread(authorities, config.ca_file)
        async with (
            asyncio.timeout(config.timeout_seconds),
            # A new connection each time: none stays open for five minutes, and the name may move.
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
        raise FetchError(describe_error(error)) from error
