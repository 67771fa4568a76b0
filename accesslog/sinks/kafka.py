"""JSON lines to a Kafka topic, one message for each line. Needs the extra `kafka`."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from accesslog.records.counters import DropReason
from accesslog.sinks.descriptor import WriterThread
from accesslog.sinks.sink import CLOSE_SECONDS, SinkError

_POLL_SECONDS: Final = 0.1

_FINAL: Final = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_MSG", "INVALID_RECORD", "_INVALID_ARG"})
"""librdkafka's names of errors that no retry helps, because of the message itself."""

_UNREACHABLE: Final = frozenset(
    {"_MSG_TIMED_OUT", "_ALL_BROKERS_DOWN", "_TRANSPORT", "_RESOLVE", "_TIMED_OUT"}
)


class KafkaSink:
    """Produces to `topic` with acknowledgements of all replicas, in order, each message once.

    The client retries for `timeout_seconds`. What is not acknowledged by then is sent again as a new message,
    and may be there twice. All calls happen in the sink's own thread; `properties` are those of librdkafka.
    """

    __slots__ = ("_producer", "_properties", "_servers", "_thread", "_timeout_seconds", "_topic", "name")

    def __init__(
        self,
        servers: str,
        topic: str,
        timeout_seconds: float,
        properties: Callable[[], Mapping[str, str]],
        name: str = "kafka",
    ) -> None:
        self.name = name
        self._servers = servers
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        self._properties = properties
        self._thread = WriterThread(f"accesslog {name}")
        self._producer: Any = None

    async def open(self) -> None:
        """Ask the brokers for the topic. Raises SinkError."""
        await self.check()

    async def write(self, lines: Sequence[bytes]) -> None:
        """Produce all of `lines`, and wait until the brokers have them. Raises SinkError."""
        await self._thread.call(self._produce, lines)

    async def check(self) -> None:
        """Ask the brokers for the topic. Raises SinkError."""
        await self._thread.call(self._check)

    async def reopen(self) -> None:
        """Connect again, with the properties as they are now. Raises SinkError."""
        await self._thread.call(self._forget)

    async def close(self) -> None:
        """Close the connections, in the thread: the client library may take its time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._thread.call(self._forget)
        self._thread.end()

    # From here on: in the thread.

    def _check(self) -> None:
        from confluent_kafka import KafkaException

        try:
            topics = self._opened().list_topics(self._topic, timeout=self._timeout_seconds).topics
        except KafkaException as error:
            raise self._error(error.args[0]) from None
        problem = topics[self._topic].error
        # A broker that creates topics does so at the first message.
        if problem is not None and problem.name() != "UNKNOWN_TOPIC_OR_PART":
            raise self._error(problem)

    def _produce(self, lines: Sequence[bytes]) -> None:
        from confluent_kafka import KafkaException

        producer = self._opened()
        failures: dict[int, Any] = {}
        acknowledged = 0

        def delivered(index: int) -> Callable[[Any, Any], None]:
            def note(error: Any, _message: Any) -> None:
                nonlocal acknowledged
                acknowledged += 1
                if error is not None:
                    failures[index] = error

            return note

        give_up_at = time.monotonic() + self._timeout_seconds + 1
        for index, line in enumerate(lines):
            try:
                self._enqueue(producer, line, delivered(index), give_up_at)
            except KafkaException as error:
                acknowledged += 1
                failures[index] = error.args[0]
        while acknowledged < len(lines) and time.monotonic() < give_up_at:
            producer.poll(_POLL_SECONDS)
        if acknowledged < len(lines):
            self._forget()
            text = f"topic {self._topic} at {self._servers}: no acknowledgement in time"
            raise SinkError(DropReason.UNREACHABLE, text)
        if failures:
            self._raise(failures, len(lines))

    @staticmethod
    def _enqueue(producer: Any, line: bytes, note: Callable[[Any, Any], None], give_up_at: float) -> None:
        while True:
            try:
                producer.produce_line(line[:-1], note)
            except BufferError:
                if time.monotonic() >= give_up_at:
                    raise SinkError(DropReason.UNREACHABLE, "the client's queue is full") from None
                producer.poll(_POLL_SECONDS)
            else:
                return

    def _raise(self, failures: Mapping[int, Any], count: int) -> None:
        final = all(error.name() in _FINAL for error in failures.values())
        first = min(failures)
        if any(error.fatal() for error in failures.values()):
            self._forget()  # an idempotent producer that lost its place does not recover
        problem = self._error(failures[first])
        raise SinkError(
            problem.reason,
            f"{problem} ({len(failures)} of {count} messages)",
            retry=not final,
            written=count - len(failures) if final else first,
            works=final,
        )

    def _opened(self) -> Any:
        if self._producer is None:
            from confluent_kafka import KafkaException

            try:
                self._producer = _producer(
                    self._servers, self._topic, self._timeout_seconds, self._properties()
                )
            except (KafkaException, OSError) as error:
                raise SinkError(DropReason.UNREACHABLE, f"{self._servers}: {error}") from error
        return self._producer

    def _forget(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def _error(self, error: Any) -> SinkError:
        reason = DropReason.UNREACHABLE if error.name() in _UNREACHABLE else DropReason.REFUSED
        return SinkError(reason, f"topic {self._topic} at {self._servers}: {error.str()}")


class _Producer:
    """A producer of one topic."""

    def __init__(self, settings: Mapping[str, Any], topic: str) -> None:
        from confluent_kafka import Producer

        self._producer = Producer(dict(settings))
        self._topic = topic
        self.poll = self._producer.poll
        self.purge = self._producer.purge
        self.list_topics = self._producer.list_topics

    def produce_line(self, line: bytes, note: Callable[[Any, Any], None]) -> None:
        self._producer.produce(self._topic, line, on_delivery=note)


def _producer(servers: str, topic: str, timeout_seconds: float, properties: Mapping[str, str]) -> _Producer:
    settings = {
        "client.id": "edge-sidecars",
        "compression.type": "lz4",
        "linger.ms": 5,
        **properties,
        "bootstrap.servers": servers,
        "acks": "all",
        "enable.idempotence": True,
        "message.timeout.ms": max(1, round(timeout_seconds * 1000)),
        # Its log goes to stderr in a form of its own; errors come with each batch.
        "log_level": 0,
    }
    return _Producer(settings, topic)
