"""Bounded questions to one server: a form is posted, and what comes back is read to a limit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp

from authz.credentials.core.http import FetchError, PublicResolver, connector_to, read_body, told
from authz.credentials.core.outbound import Proxy, authorities, proxy_for
from authz.credentials.introspection.config import IntrospectionConfig

MAX_ANSWER_BYTES: Final = 64 * 1024
"""An introspection answer is the claims of one token: 0.2 to 4 KiB."""

Post = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[bytes]]
"""(form, headers) -> body of a 200 answer; raises FetchError."""


class IntrospectionClient:
    """Posts to one URL over connections that stay open. Made inert; `close` it on the loop it was used on."""

    def __init__(self, config: IntrospectionConfig) -> None:
        self._config = config
        self._resolver = PublicResolver(config.allow_addresses)
        self._client: aiohttp.ClientSession | None = None

    async def post(self, form: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        """The body of the answer. Follows no redirect. Raises FetchError."""
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                self._resolver.check_url(self._config.url)
                proxy = proxy_for(self._config.url, self._config.proxy)
                client = self._client or await self._open(proxy)
                async with client.post(
                    self._config.url,
                    data=form,
                    proxy=None if proxy is None else proxy.url,
                    proxy_headers=None if proxy is None else proxy.headers,
                    headers={"accept": "application/json", "accept-encoding": "identity", **headers},
                    allow_redirects=False,
                ) as response:
                    return await read_body(response, MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise FetchError(f"no answer within {self._config.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(told(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self, proxy: Proxy | None) -> aiohttp.ClientSession:
        tls = await asyncio.to_thread(authorities, self._config.ca_file)
        if self._client is None:  # another question may have been faster
            connector = connector_to(proxy, self._resolver, tls)
            # No cookies: an answer about one token must not depend on who asked about another.
            self._client = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._client
