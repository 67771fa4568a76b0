"""OTLP over gRPC, with the retries of the specification."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import grpc.aio

from accesslog.records.counters import DropReason
from accesslog.sinks.sink import CLOSE_SECONDS, SinkError
from accesslog.wire.otlp import retry_delay_seconds
from common.os_errors import in_words

EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

_RETRIED: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""OTLP specification, "Failures". RESOURCE_EXHAUSTED is one only with a RetryInfo; all others are final."""

_UNREACHABLE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
"""gRPC's own backoff grows to two minutes; the queue has one already."""

_LONGEST_DETAILS: Final = 200


class OtlpGrpc:
    """An `accesslog.sinks.otlp.OtlpTransport`."""

    def __init__(
        self,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        timeout_seconds: float,
        *,
        compress: bool = True,
        ca_file: Path | None = None,
    ) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._target = f"{host}:{parts.port or 4317}"
        self.endpoint = f"{parts.scheme}://{self._target}"
        self._secure = parts.scheme == "https"
        self._headers = headers
        self._timeout_seconds = timeout_seconds
        self._compression = grpc.Compression.Gzip if compress else grpc.Compression.NoCompression
        self._ca_file = ca_file
        self._channel: grpc.aio.Channel | None = None

    async def send(self, request: bytes) -> bytes:
        """The response. Raises SinkError."""
        try:
            metadata = tuple((name.lower(), value) for name, value in self._headers().items())
            export: Any = self._opened().unary_unary(EXPORT)
            response: bytes = await export(
                request, timeout=self._timeout_seconds, metadata=metadata, compression=self._compression
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except OSError as error:
            text = f"{self.endpoint}: {error.filename}: {in_words(error)}"
            raise SinkError(DropReason.UNREACHABLE, text) from error
        return response

    async def check(self) -> None:
        """Connect. Raises SinkError."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._opened().channel_ready()
        except (TimeoutError, OSError) as error:
            raise SinkError(DropReason.UNREACHABLE, f"{self.endpoint}: {in_words(error)}") from error

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._channel.close()

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            if self._secure:
                roots = None if self._ca_file is None else self._ca_file.read_bytes()
                credentials = grpc.ssl_channel_credentials(root_certificates=roots)
                self._channel = grpc.aio.secure_channel(self._target, credentials, _OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._target, _OPTIONS)
        return self._channel

    def _error(self, error: grpc.aio.AioRpcError) -> SinkError:
        code = error.code()
        delay = None
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin" and isinstance(value, bytes):
                delay = retry_delay_seconds(value)
        retry = code in _RETRIED or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None)
        details = (error.details() or "")[:_LONGEST_DETAILS]
        return SinkError(
            DropReason.UNREACHABLE if code in _UNREACHABLE else DropReason.REFUSED,
            f"{self.endpoint}: {code.name}{': ' if details else ''}{details}",
            retry=retry,
            retry_after_seconds=delay if retry else None,
        )
