"""The accesslog sidecar: passes Envoy's stream of access log entries to the sinks."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from accesslog.metrics import AccesslogCollector, RequestCollector
from accesslog.pipeline import Pipeline
from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.requests import RequestCounters
from accesslog.wire.message import REPLY, UnreadableMessageError
from common.configfile import SETTINGS, Breathe, ConfigError, Problem, no_breaks
from common.redaction import NO_NAMES, SecretNames
from common.tasks import cancel_and_wait
from sidecars.services.accesslog_sinks import sink_queues
from sidecars.services.envoy_stats import EnvoyStats
from sidecars.services.message_reader import Reader
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.route_rules import load_route_rules
from sidecars.transport.api.service import Call, ClientStreaming, Code, Service, StatusError

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"

QUIET_SECONDS: Final = 0.05
"""A stream that was silent for this long is taken as read to its end."""

MOST_LATE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of messages that may wait after the end of their streams. Windows do not bound them, because they are
read at once; on a busy machine Envoy has megabytes to send before it learns of the end."""

MESSAGE_OVERHEAD_BYTES: Final = 128
"""Counted for each of them, so that empty ones are bounded, too."""

FINISH_SECONDS: Final = 1.0
"""Envoy goes on sending as long as there are requests, so at some point a stream is ended in any case."""

_log = structlog.get_logger("sidecars.accesslog")


class _Stream:
    """One open call: Envoy keeps one for each worker thread and logger, and never ends it itself."""

    __slots__ = ("_intake", "_late", "_reader", "_turn", "cut_off", "late_bytes", "messages", "reading_late")

    def __init__(self, messages: AsyncIterator[bytes], decoder: EntryDecoder, turn: asyncio.Lock) -> None:
        self._reader = Reader(messages)
        self._intake = decoder
        self._turn = turn
        """Shared by all streams: one of those in the middle of a message goes on in each turn of the loop."""
        self._late: deque[bytes] = deque()
        self.late_bytes = 0
        """Bytes of the messages that wait after the end of the stream, with the one in hand."""
        self.reading_late: asyncio.Task[None] | None = None
        """Submits what was under way when the stream ended."""
        self.messages = 0
        self.cut_off = False
        """Whether it was ended although the client may have sent more than was read."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for Envoy, rather than for the sinks."""
        return self._reader.waiting

    async def run(self, pipeline: Pipeline) -> None:
        """Submit every entry until Envoy leaves or `end` is called."""
        while (message := await self._reader.next()) is not None:
            self.messages += 1
            await self._submit(message, pipeline)

    def use(self, rules: Rules) -> None:
        """Make the records of the next message by `rules`."""
        self._intake.rules = rules

    def end(self, *, cut_off: bool) -> None:
        """Make `run` return: at once if it waits for Envoy, else after the current message."""
        self.cut_off = cut_off
        self._reader.stop()

    def take_late(self, message: bytes, pipeline: Pipeline) -> None:
        """Take a message that was under way when the stream ended."""
        self._late.append(message)
        self.late_bytes += len(message) + MESSAGE_OVERHEAD_BYTES
        if self.reading_late is None:
            self.reading_late = asyncio.get_running_loop().create_task(self._submit_late(pipeline))

    async def _submit_late(self, pipeline: Pipeline) -> None:
        while self._late:
            message = self._late.popleft()
            self.messages += 1
            with contextlib.suppress(UnreadableMessageError):  # which costs no other message
                await self._submit(message, pipeline)
            self.late_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
        self.reading_late = None

    async def _submit(self, message: bytes, pipeline: Pipeline) -> None:
        line_batches = self._intake.read(message)
        try:
            for line_batch in line_batches:
                await pipeline.submit(line_batch)
                if line_batch.more:
                    await self._yield()
        except asyncio.CancelledError:
            # The caller has gone, and its last entries may tell why. Only those without room are lost: at the
            # first of them the rest goes too, so that the messages of callers that left do not pile up.
            while not pipeline.waiting_streams:
                await self._yield()
                left = next(line_batches, None)
                if left is None or not pipeline.offer(left):
                    break
            line_batches.close()
            raise

    async def _yield(self) -> None:
        async with self._turn:
            await asyncio.sleep(0)


class AccesslogSidecar:
    """`sidecars.services.sidecar.Sidecar` for the access log."""

    name = "accesslog"

    def __init__(
        self,
        settings: AccesslogSettings,
        rules: Rules,
        pipeline: Pipeline,
        dependencies: Dependencies,
        counters: EntryCounters,
        files: Sequence[Path] = (),
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._pipeline = pipeline
        self._ledger = counters
        self._dependencies = dependencies
        self._streams: set[_Stream] = set()
        self._ended: dict[int, tuple[Call, _Stream]] = {}
        """The calls that `finish_streams` ended, by their `id`: clients may not know yet."""
        self._finishing = False
        self._turn = asyncio.Lock()
        self._finished = self._stopped = False
        self._reopening: asyncio.Task[None] | None = None
        self.services: Sequence[Service] = (
            Service(
                SERVICE,
                {
                    "StreamAccessLogs": ClientStreaming(
                        self.stream,
                        waits_for_message=True,
                        after_reply=self._take_late,
                    )
                },
            ),
        )
        self.watched_files = files
        dependencies.registry.register(AccesslogCollector(counters, pipeline, self))
        if rules.requests is not None:
            dependencies.registry.register(RequestCollector(rules.requests, dependencies.wall_clock))
        self._envoy = self._envoy_stats()
        self._looking: asyncio.Task[None] | None = None

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def stream(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        """StreamAccessLogs: read until Envoy leaves or the process ends; the reply is empty.

        Raises StatusError INVALID_ARGUMENT for bytes that are not a StreamAccessLogsMessage, and UNAVAILABLE
        where the process ends while messages come. A single bad entry is dropped and
        counted; the stream goes on.
        """
        if self._finished:
            raise StatusError(Code.UNAVAILABLE, "the access log is shutting down")
        dependencies = self._dependencies
        decoder = EntryDecoder(self._rules, self._ledger, dependencies.wall_clock, dependencies.random)
        stream = _Stream(messages, decoder, self._turn)
        self._streams.add(stream)
        try:
            await stream.run(self._pipeline)
        except UnreadableMessageError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"not a StreamAccessLogsMessage: {error}") from error
        finally:
            self._streams.discard(stream)
        if self._finishing:
            self._ended[id(call)] = call, stream
        if stream.cut_off:
            raise StatusError(Code.UNAVAILABLE, "the access log is shutting down: open another stream")
        return REPLY

    def _take_late(self, message: bytes, call: Call) -> bool:
        """Take a message that Envoy sent before it knew that its stream had ended: it sends nothing twice."""
        _, stream = self._ended.get(id(call), (call, None))
        if stream is None or self._stopped:
            return False
        waiting = sum(other.late_bytes for _, other in self._ended.values())
        if waiting + len(message) + MESSAGE_OVERHEAD_BYTES > MOST_LATE_BYTES:
            _log.warning("log entries after the end of their stream not read", message_bytes=len(message))
            return False
        stream.take_late(message, self._pipeline)
        return True

    async def start(self) -> None:
        """Open the sinks. One that cannot be opened is tried again with each batch."""
        for name in self._rules.redaction.allowed:
            _log.warning("logged although secret: redact.allow", name=name)
        await self._pipeline.start()
        if self._envoy is not None:
            self._looking = asyncio.create_task(self._envoy.run(), name="accesslog envoy_admin")

    def prepare(self) -> Callable[[], None]:
        """Read again which names the policy takes credentials from. Raises ConfigError.

        The swap has the sinks open their files again, too, as log rotation asks by SIGHUP.
        """
        rules, files = _rules(self._settings, self._dependencies, self._rules.requests, beside_loop=True)

        def swap() -> None:
            self._rules, self.watched_files = rules, files
            for stream in self._streams:
                stream.use(rules)
            self._reopen()

        return swap

    def describe(self) -> dict[str, Any]:
        """The sinks with their queues, what is done to records, and the counters."""
        return {
            "sinks": [
                {
                    "name": sink_queue.sink.name,
                    "required": sink_queue.required,
                    "failing": sink_queue.failing,
                    "problem": sink_queue.problem,
                    "queue_entries": sink_queue.entries,
                    "queue_bytes": sink_queue.size_bytes,
                    "spool": None if sink_queue.spool is None else sink_queue.spool.describe(),
                }
                for sink_queue in self._pipeline.sink_queues
            ],
            "sample_rate": self._settings.sample.rate,
            "route_rules_revision": self._rules.routes_revision,
            "redaction_allowed": list(self._rules.redaction.allowed),
            "streams_open": self.open_streams,
            "entries_received": self._received(),
            "entries_missing": None if self._envoy is None else self._envoy.gap,
        }

    def totals(self) -> dict[str, dict[str, float]]:
        """Entries since the start by what became of them, and those lost by reason."""
        return self._ledger.totals()

    async def finish_streams(self) -> None:
        """End every stream: with OK once nothing more comes from it, with UNAVAILABLE after FINISH_SECONDS.

        A stream that waits for room ends after its message in hand has found it.
        """
        self._finishing = True
        clock = self._dependencies.monotonic_clock
        give_up_at = clock() + FINISH_SECONDS
        while self._streams:
            seen = {stream: stream.messages for stream in self._streams}
            await asyncio.sleep(QUIET_SECONDS)
            late = clock() >= give_up_at
            for stream, messages in seen.items():
                quiet = stream.waiting and stream.messages == messages
                if quiet or late:
                    stream.end(cut_off=not quiet)
            if late:
                await asyncio.sleep(0)
                break
        self._finished = True

    async def stop(self) -> None:
        """Write what is queued, for at most `flush_seconds`, and close the sinks."""
        self._finished = self._stopped = True
        clock, flush_seconds = self._dependencies.monotonic_clock, self._settings.flush_seconds
        give_up_at = clock() + flush_seconds
        reading = [
            stream.reading_late for _, stream in self._ended.values() if stream.reading_late is not None
        ]
        if reading:
            await asyncio.wait(reading, timeout=flush_seconds)
        if self._looking is not None:
            await cancel_and_wait(self._looking)
        await self._pipeline.stop(max(0.0, give_up_at - clock()))

    def _received(self) -> int:
        return sum(log.received for log in self._ledger)

    def _envoy_stats(self) -> EnvoyStats | None:
        address = self._settings.envoy_admin
        if address is None:
            return None
        stats = EnvoyStats(address, self._received, with_gap=self._dependencies.workers == 1)
        self._dependencies.registry.register(stats)
        return stats

    def _reopen(self) -> None:
        self._reopening = asyncio.get_running_loop().create_task(self._pipeline.reopen())


def build(settings: AccesslogSettings, dependencies: Dependencies) -> AccesslogSidecar:
    """The sidecar of `settings`. Raises ConfigError for a bad policy, or an extra that is not installed."""
    rules, files = _rules(settings, dependencies, settings.request_metrics.counters)
    counters = EntryCounters()
    pipeline = Pipeline(sink_queues(settings, dependencies, counters))
    return AccesslogSidecar(settings, rules, pipeline, dependencies, counters, files)


def _rules(
    settings: AccesslogSettings,
    dependencies: Dependencies,
    requests: RequestCounters | None,
    *,
    beside_loop: bool = False,
) -> tuple[Rules, Sequence[Path]]:
    """What is done to every record, and the policy files to watch. Raises ConfigError."""
    policy = settings.redact.policy or dependencies.policy
    names, files = names_in_policy(policy, beside_loop=beside_loop)
    try:
        key = settings.redact.hash_key()
        by_route = load_route_rules(settings.route_rules, key, _breaks(beside_loop=beside_loop))
        redaction = settings.redact.redaction(names, by_route.redact)
    except ValueError as error:  # the key of hashes is a file, which may have changed
        raise ConfigError([Problem(SETTINGS, 0, "accesslog.redact", str(error))]) from None
    sampling = settings.sample.sampling
    sampling = replace(sampling, routes={**by_route.samples, **sampling.routes})
    rules = Rules(
        redaction, sampling, settings.max_record_bytes, requests, by_route.routes, by_route.revision
    )
    return rules, (*files, *settings.route_rules)


def _breaks(*, beside_loop: bool) -> Breathe:
    """Return what pauses the thread between two steps, if an event loop runs next to it."""
    if not beside_loop:
        return no_breaks
    from common.background import GilYielder

    return GilYielder().yield_gil


def names_in_policy(
    policy: Sequence[Path], *, beside_loop: bool = False
) -> tuple[SecretNames, tuple[Path, ...]]:
    """The names that the policy files read credentials from, and all files read. Raises ConfigError."""
    if not policy:
        return NO_NAMES, ()
    # Here, so that a process without a policy does not load it.
    from authz.credentials.secret_names import secret_names
    from authz.policy.compile.load import load_credentials

    credentials, read = load_credentials(policy, _breaks(beside_loop=beside_loop))
    return secret_names(credentials), (*policy, *read)
