"""Fetches bundles from a server, as OPA does: ETag, 304, long polling."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from authz.credentials.core.http import (
    FetchError,
    PublicResolver,
    connector_to,
    describe_error,
    read_body,
)
from authz.credentials.core.outbound import authorities, proxy_for
from common.os_errors import in_words
from common.pairs_file import pairs_in
from sidecars.settings.bundle import BundleSettings, S3Settings, ServerSettings

LONG_POLL_TYPE: Final = "application/vnd.openpolicyagent.bundles"
"""The content type of a server that holds requests until something changes (OPA's documentation)."""

MAX_ETAG_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer of the server."""

    body: bytes | None
    """None: unchanged since the ETag."""
    etag: str
    long_poll: bool
    """Whether the server holds requests."""


async def fetch(
    server: BundleSettings, *, etag: str = "", wait_seconds: int | None = None, max_bytes: int
) -> Fetched:
    """GET the URL. Raises FetchError.

    Follows no redirect, accepts no compressed transfer, and ends after `timeout_seconds`; a long poll adds
    `wait_seconds`. Refuses addresses that are neither public nor listed.
    """
    preferred = "modes=snapshot" if wait_seconds is None else f"modes=snapshot;wait={wait_seconds}"
    headers = {"prefer": preferred, "accept": f"application/gzip, {LONG_POLL_TYPE}, */*"}
    if etag:
        headers["if-none-match"] = etag
    if server.s3 is not None:
        headers |= await asyncio.to_thread(_signature, server.s3, server.url)
    async with _asked(server, "GET", headers, wait_seconds or 0) as response:
        long_poll = response.headers.get("content-type", "").startswith(LONG_POLL_TYPE)
        if response.status == 304 and etag:
            return Fetched(None, etag, long_poll)
        body = await read_body(response, max_bytes)
        sent = response.headers.get("etag", "")
        usable = len(sent) <= MAX_ETAG_CHARACTERS and sent.isascii() and sent.isprintable()
        return Fetched(body, sent if usable else "", long_poll)


async def post_json(server: ServerSettings, body: bytes) -> None:
    """POST a JSON document. Raises FetchError, also for a status that is not 2xx."""
    async with _asked(server, "POST", {"content-type": "application/json"}, body=body) as response:
        if not 200 <= response.status < 300:
            raise FetchError(f"HTTP status {response.status}")


@asynccontextmanager
async def _asked(
    server: ServerSettings,
    method: str,
    headers: Mapping[str, str],
    more_seconds: float = 0,
    body: bytes | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Make one request on a connection of its own. Raises FetchError, also for what fails in its body."""
    seconds = server.timeout_seconds + more_seconds
    resolver = PublicResolver(server.allow_addresses)
    try:
        resolver.check_url(server.url)
        proxy = proxy_for(server.url, server.proxy)
        tls, secret = await asyncio.to_thread(_files, server)
        if "Authorization" in headers and any(name.lower() == "authorization" for name in secret):
            raise FetchError("headers_file has the header authorization, which s3 makes: remove one of both")
        async with (
            asyncio.timeout(seconds),
            connector_to(proxy, resolver, tls, force_close=True) as connector,
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.request(
                method,
                # As it is written: another spelling of an escape would not fit a presigned signature.
                URL(server.url, encoded=True),
                data=body,
                allow_redirects=False,
                proxy=None if proxy is None else proxy.url,
                proxy_headers=None if proxy is None else proxy.headers,
                headers={"accept-encoding": "identity", **headers, **secret},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            yield response
    except TimeoutError as error:
        raise FetchError(f"no answer within {seconds:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError(describe_error(error)) from error


def _signature(settings: S3Settings, url: str) -> Mapping[str, str]:
    """Return the headers of a signed request. Blocks on the disk; raises FetchError."""
    from sidecars.process.bundle.s3 import SigningError, signature_headers

    try:
        return signature_headers(settings, url)
    except SigningError as error:
        raise FetchError(str(error)) from error


def _files(server: ServerSettings) -> tuple[ssl.SSLContext, Mapping[str, str]]:
    """Return the trusted authorities and the secret headers. Blocks on the disk; raises FetchError."""
    try:
        secret = pairs_in(server.headers_file, ":")
    except OSError as error:
        raise FetchError(f"headers_file cannot be read: {in_words(error)}") from error
    try:
        return authorities(server.ca_file), secret
    except OSError as error:
        raise FetchError(f"ca_file cannot be used: {in_words(error)}") from error
