"""OTLP over HTTP: protobuf in a POST, with the retries of the specification."""

import asyncio
import gzip
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from accesslog.records.counters import DropReason
from accesslog.sinks.sink import CLOSE_SECONDS, SinkError
from common.http_body import read_at_most
from common.os_errors import in_words

_RETRIED: Final = frozenset({429, 502, 503, 504})
"""OTLP specification, "Retryable Response Codes". All others are final."""

_LONGEST_RESPONSE: Final = 64 * 1024


class OtlpHttp:
    """An `OtlpTransport`. Redirects are not followed; proxies of the environment are not used."""

    __slots__ = ("_ca_file", "_gzip", "_headers", "_session", "_timeout_seconds", "_url", "_wall_clock")

    def __init__(
        self,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        timeout_seconds: float,
        wall_clock: Callable[[], float],
        *,
        compress: bool = True,
        ca_file: Path | None = None,
    ) -> None:
        found = URL(url)
        self._url = found.with_path("/v1/logs") if found.path in {"", "/"} else found
        self._headers = headers
        self._timeout_seconds = timeout_seconds
        self._wall_clock = wall_clock
        self._gzip = compress
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return str(self._url.with_user(None).with_query(None))

    async def send(self, request: bytes) -> bytes:
        """The response. Raises SinkError."""
        headers = {"Content-Type": "application/x-protobuf", **self._read_headers()}
        if self._gzip:
            request = await asyncio.to_thread(gzip.compress, request, 1)
            headers["Content-Encoding"] = "gzip"
        try:
            async with self._opened().post(
                self._url, data=request, headers=headers, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    return await read_at_most(response.content, _LONGEST_RESPONSE)
                raise self._refused(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def check(self) -> None:
        """Connect. Raises SinkError."""
        host, port = self._url.host or "", self._url.port or 0
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, writer = await asyncio.open_connection(host, port)
        except (TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = True
            if self._ca_file is not None:
                try:
                    context = ssl.create_default_context(cafile=self._ca_file)
                except OSError as error:
                    text = f"ca_file {self._ca_file}: {in_words(error)}"
                    raise SinkError(DropReason.UNREACHABLE, text) from error
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=2),
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
                auto_decompress=True,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _read_headers(self) -> Mapping[str, str]:
        try:
            return self._headers()
        except OSError as error:
            text = f"{self.endpoint}: headers_file cannot be read: {in_words(error)}"
            raise SinkError(DropReason.UNREACHABLE, text) from error

    def _refused(self, response: aiohttp.ClientResponse) -> SinkError:
        retry = response.status in _RETRIED
        return SinkError(
            DropReason.REFUSED,
            f"{self.endpoint}: HTTP status {response.status}",
            retry=retry,
            retry_after_seconds=self._retry_after(response.headers.get("Retry-After")) if retry else None,
        )

    def _retry_after(self, text: str | None) -> float | None:
        """RFC 9110 section 10.2.3: seconds, or a date."""
        if text is None:
            return None
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._wall_clock())
        except ValueError:
            return None

    def _unreachable(self, error: Exception) -> SinkError:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        words = in_words(cause) if isinstance(cause, OSError) else str(cause) or type(cause).__name__
        return SinkError(DropReason.UNREACHABLE, f"{self.endpoint}: {words}")
