"""Bounded questions to one server: a form is posted, and what comes back is read to a limit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp

from authz.credentials.fetch import FetchError, PublicResolver, read_body
from authz.credentials.settings.introspection import IntrospectionConfig

MAX_ANSWER_BYTES: Final = 64 * 1024
"""An introspection answer is the claims of one token: 0.2 to 4 KiB."""

MAX_CONNECTIONS: Final = 16
"""Kept open to the server."""

Post = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[bytes]]
"""(form, headers) -> body of a 200 answer; raises FetchError."""


class Poster:
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
                async with self._open().post(
                    self._config.url,
                    data=form,
                    headers={"accept": "application/json", "accept-encoding": "identity", **headers},
                    allow_redirects=False,
                ) as response:
                    return await read_body(response, MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise FetchError(f"no answer within {self._config.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._client is None:
            connector = aiohttp.TCPConnector(resolver=self._resolver, limit=MAX_CONNECTIONS)
            # No cookies: an answer about one token must not depend on who asked about another.
            self._client = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._client
