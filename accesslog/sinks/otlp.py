"""Log records to an OpenTelemetry collector by OTLP; how they get there is the transport's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import orjson

from accesslog.records.counters import DropReason
from accesslog.records.opentelemetry import attribute_name, severity, summary
from accesslog.sinks.descriptor import WriterThread
from accesslog.sinks.sink import SinkError
from accesslog.wire.otlp import export_request, rejected

LONGEST_REASON: Final = 200
"""Characters of a collector's message that are logged."""


class OtlpTransport(Protocol):
    """Sends ExportLogsServiceRequests: by gRPC or by HTTP."""

    @property
    def endpoint(self) -> str:
        """Where it sends, for messages."""

    async def send(self, request: bytes) -> bytes:
        """The response. Raises SinkError, with `retry` as the OTLP specification has it."""

    async def check(self) -> None:
        """Raises SinkError if the collector cannot be reached."""

    async def close(self) -> None:
        """Close the connection. Raises nothing."""


class OtlpSink:
    """Sends a batch as one request, encoded in a thread of its own.

    Records that the collector rejects (`partial_success`) count as dropped. A batch whose response is lost is
    sent again, as the specification asks.
    """

    __slots__ = ("_resource", "_thread", "_transport", "_version", "_wall_clock", "name")

    def __init__(
        self,
        transport: OtlpTransport,
        wall_clock: Callable[[], float],
        version: str,
        resource: Mapping[str, str],
        name: str = "otlp",
    ) -> None:
        self.name = name
        self._transport = transport
        self._wall_clock = wall_clock
        self._version = version
        self._resource = resource
        self._thread = WriterThread(f"accesslog {name}")

    async def open(self) -> None:
        """See whether the collector can be reached. Raises SinkError."""
        await self._transport.check()

    async def write(self, lines: Sequence[bytes]) -> None:
        """Send all of `lines`. Raises SinkError."""
        request = await self._thread.call(self._encode, lines)
        count, message = rejected(await self._transport.send(request))
        if count:
            reason = f": {message[:LONGEST_REASON]}" if message else ""
            raise SinkError(
                DropReason.REFUSED,
                f"{self._transport.endpoint}: rejected {count} of {len(lines)} records{reason}",
                retry=False,
                written=max(0, len(lines) - count),
                works=True,
            )

    async def check(self) -> None:
        """See whether the collector can be reached. Raises SinkError."""
        await self._transport.check()

    async def reopen(self) -> None:
        """Do nothing: connections are opened when they are needed."""

    async def close(self) -> None:
        """Close the connection."""
        self._thread.end()
        await self._transport.close()

    def _encode(self, lines: Sequence[bytes]) -> bytes:
        observed_ns = int(self._wall_clock() * 1e9)
        records = map(orjson.loads, lines)
        described = ((record, summary(record), severity(record)) for record in records)
        return export_request(described, self._resource, self._version, observed_ns, attribute_name)
