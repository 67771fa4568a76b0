"""Turns the bytes of a message into lines for the sinks; the clock and randomness are passed in."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from accesslog.records.counters import DropReason, EntryCounters, LogCounters
from accesslog.records.encode import MAX_RECORD_BYTES, json_line
from accesslog.records.redact import Redaction
from accesslog.records.sample import Sampling, keeps
from accesslog.wire.entry import HTTP, TCP, EntryKind, record_of
from accesslog.wire.message import Batch, UnreadableMessageError, read_message
from accesslog.wire.record import Record

BATCH_ENTRIES: Final = 64
"""The most entries that become lines before other tasks may run."""

BATCH_SECONDS: Final = 0.002
"""The longest time before other tasks may run: an authz server in the same process tolerates little more.
A usual entry takes 30 us; one that a client has filled with escapes or bytes that are not UTF-8 takes many
times that."""

_log = structlog.get_logger("accesslog")


@dataclass(frozen=True, slots=True, eq=False)
class LineBatch:
    """Lines of one log that arrived together: the unit of the queues."""

    log: LogCounters
    lines: tuple[bytes, ...]
    size_bytes: int
    more: bool = False
    """Whether the message holds more: yield to the loop before asking for it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings want done to every record."""

    redaction: Redaction
    sampling: Sampling
    max_record_bytes: int = MAX_RECORD_BYTES


class EntryDecoder:
    """Turns the entries of one stream into batches of lines.

    The identifier comes with the first message of a stream and holds for all of it. A stream without one is
    accepted and counted: its entries are as good as others. State is kept by stream and never by node id,
    which two Envoys may share.
    """

    __slots__ = (
        "_clock",
        "_complained",
        "_identified",
        "_ledger",
        "_log_name",
        "_origin",
        "_random",
        "rules",
    )

    def __init__(
        self, rules: Rules, counters: EntryCounters, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self.rules = rules
        """Others may take their place between two messages."""
        self._ledger = counters
        self._clock = clock
        self._random = random
        self._identified: bool | None = None
        self._complained = False
        self._log_name = ""
        self._origin: Mapping[str, str] = {}

    def read(self, message: bytes) -> Generator[LineBatch]:
        """The batches of lines of a message, each made when it is asked for; some have no lines.

        Every entry is counted as received, and as dropped or sampled out where it went no further; closing
        the iterator early drops the rest. Raises UnreadableMessageError (counted) at once when `message` is
        no StreamAccessLogsMessage.
        """
        try:
            batch = read_message(message)
        except UnreadableMessageError:
            self._ledger.unreadable_messages += 1
            raise
        if batch.origin is not None:
            self._identified = True
            self._origin, self._log_name = batch.origin, batch.origin.get("log_name", "")
        elif self._identified is None:
            self._identified = False
            self._ledger.unidentified_streams += 1
        return self._batches_of(batch)

    def _batches_of(self, batch: Batch) -> Generator[LineBatch]:
        if batch.http:
            yield from self._line_batches(HTTP, batch.http)
        if batch.tcp:
            yield from self._line_batches(TCP, batch.tcp)

    def _line_batches(self, kind: EntryKind[Any], entries: Sequence[Any]) -> Generator[LineBatch]:
        log = self._ledger.log(self._log_name, kind.name)
        waiting = len(entries)
        log.received += waiting
        now = began = self._clock()
        lines: list[bytes] = []
        made = 0
        try:
            for entry in entries:
                waiting -= 1
                made += 1
                try:
                    line = self._line(record_of(kind, entry, self._origin, now), log)
                # A malformed entry must not cost the stream its other entries.
                except Exception as error:
                    log.dropped[DropReason.MALFORMED] += 1
                    self._complain(log, error)
                    line = None
                if line is not None:
                    lines.append(line)
                if made == BATCH_ENTRIES or not waiting or self._clock() - began >= BATCH_SECONDS:
                    yield LineBatch(log, tuple(lines), sum(map(len, lines)), waiting > 0)
                    lines, made, began = [], 0, self._clock()
        finally:
            if waiting:
                log.dropped[DropReason.STREAM_CANCELLED] += waiting

    def _line(self, record: Record, log: LogCounters) -> bytes | None:
        rules = self.rules
        if not keeps(rules.sampling, record, self._random):
            log.sampled_out += 1
            return None
        rules.redaction.apply(record)
        if "redacted" in record:
            log.redacted += 1
        line = json_line(record, rules.max_record_bytes)
        if line is None:
            log.dropped[DropReason.TOO_LARGE] += 1
        return line

    def _complain(self, log: LogCounters, error: Exception) -> None:
        """Log one example for each stream: the counter has the number, the example the reason."""
        if not self._complained:
            self._complained = True
            _log.warning("malformed entry dropped", log_name=log.name, type=log.type, error=repr(error))
