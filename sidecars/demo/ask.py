"""Sends one request and returns the response."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import Final

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

MAX_ANSWER_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class EdgeResponse:
    """A response through Envoy."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def upstream_values(self, name: str) -> list[str]:
        """Return every value of the header (lower-case name) that reached the upstream."""
        seen = orjson.loads(self.body)
        return [value for header, value in seen["headers"] if header == name]


async def ask(
    origin: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    tls: SSLContext | bool = True,
) -> EdgeResponse:
    """Return the response of the server at `origin`, on a new connection.

    Redirects are not followed. `path` is sent unchanged, without normalisation.
    """
    url = URL(origin + path, encoded=True)
    timeout = aiohttp.ClientTimeout(total=MAX_ANSWER_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as client,
        client.request(
            method, url, headers=CIMultiDict(headers), data=body or None, allow_redirects=False, ssl=tls
        ) as answer,
    ):
        return EdgeResponse(answer.status, answer.headers, await answer.read())
