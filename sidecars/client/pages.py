"""One GET of a page, with its headers."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from multidict import CIMultiDictProxy

from common.http_body import read_at_most
from common.os_errors import in_words
from sidecars.client.admin_client import admin_session
from sidecars.settings.process import AdminSettings
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address, TcpAddress

TIMEOUT_SECONDS: Final = 5.0
MAX_PAGE_BYTES: Final = 64 * 1024 * 1024
"""Envoy's config_dump has a few MB at a large edge."""

_UNAUTHORIZED: Final = 401


class NoAnswerError(Exception):
    """The server did not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    headers: CIMultiDictProxy[str]

    def json(self) -> Any:
        """Return the body as JSON. Raises NoAnswerError."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise NoAnswerError(f"it answers {self.status}, and not with JSON") from None


async def admin_page(settings: Settings, path: str, **query: str) -> Page:
    """Return a page of the admin port of `settings`. Raises NoAnswerError."""
    _check_token(settings.admin)
    try:
        async with admin_session(settings.admin) as (client, base):
            page = await _get(client, f"{base}{path}", query)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise NoAnswerError(_why(error)) from None
    if page.status == _UNAUTHORIZED:
        raise NoAnswerError(_refused(settings.admin))
    return page


def _check_token(settings: AdminSettings) -> None:
    try:
        _ = settings.client_headers
    except (OSError, ValueError) as error:
        why = in_words(error) if isinstance(error, OSError) else str(error)
        raise NoAnswerError(f"admin.token_file {settings.token_file} cannot be used: {why}") from None


def _refused(settings: AdminSettings) -> str:
    if settings.token_file is None:
        return "it needs a token, and the settings name no admin.token_file"
    return f"it refuses the token in admin.token_file {settings.token_file}"


async def page(address: Address, path: str) -> Page:
    """Return a page of the server at `address`. Raises NoAnswerError."""
    connector: aiohttp.BaseConnector
    if isinstance(address, TcpAddress):
        connector, origin = aiohttp.TCPConnector(), f"http://{address}"
    else:
        socket = "\0" + address.path[1:] if address.abstract else address.path
        connector, origin = aiohttp.UnixConnector(path=socket), "http://envoy"
    return await url_page(f"{origin}{path}", connector)


async def url_page(url: str, connector: aiohttp.BaseConnector | None = None) -> Page:
    """Return the page at `url`. Raises NoAnswerError."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as client:
            return await _get(client, url, {})
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise NoAnswerError(_why(error)) from None


async def _get(client: aiohttp.ClientSession, url: str, query: dict[str, str]) -> Page:
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        client.get(url, params=query or None, allow_redirects=False) as response,
    ):
        body = await read_at_most(response.content, MAX_PAGE_BYTES)
        return Page(response.status, body, response.headers)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    of_system = getattr(error, "os_error", error)
    if isinstance(of_system, OSError) and of_system.errno is not None:
        return in_words(of_system)
    return str(error) or type(error).__name__
