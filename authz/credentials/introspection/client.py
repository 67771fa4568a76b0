"""Posts a form to one server and reads the response up to a limit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp

from authz.credentials.core.http import FetchError, PublicResolver, connector_to, describe_error, read_body
from authz.credentials.core.outbound import Proxy, authorities, proxy_for
from authz.credentials.introspection.config import IntrospectionConfig

MAX_ANSWER_BYTES: Final = 64 * 1024
"""The largest response read. The claims of one token have 0.2 to 4 KiB."""

Post = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[bytes]]
"""(form, headers) -> body of a 200 response; raises FetchError."""


class IntrospectionClient:
    """Posts to one URL over connections that stay open. Call `close` on the loop that used it."""

    def __init__(self, config: IntrospectionConfig) -> None:
        self._config = config
        self._resolver = PublicResolver(config.allow_addresses)
        self._client: aiohttp.ClientSession | None = None

    async def post(self, form: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        """Post the form and return the body of the response. Follows no redirect. Raises FetchError."""
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
            raise FetchError(describe_error(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self, proxy: Proxy | None) -> aiohttp.ClientSession:
        tls = await asyncio.to_thread(authorities, self._config.ca_file)
        if self._client is None:  # another request may have opened it by now
            connector = connector_to(proxy, self._resolver, tls)
            # No cookies: the response for one token must not depend on requests for another.
            self._client = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._client
