"""Turns the bytes of a message into lines for the sinks; the clock and randomness are passed in."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final

import orjson
import structlog

from accesslog.records.columns import Rows
from accesslog.records.counters import DropReason, EntryCounters, LogCounters
from accesslog.records.encode import MAX_RECORD_BYTES, json_line
from accesslog.records.fragments import PLACES, fragment_of
from accesslog.records.judge import Judge
from accesslog.records.line_batch import LineBatch
from accesslog.records.lines import UNUSUAL, Blank, LineMaker
from accesslog.records.redact import Redaction
from accesslog.records.requests import RequestCounters
from accesslog.records.route_rules import RoutesRules
from accesslog.records.sample import Sampling
from accesslog.wire.entry import HTTP, TCP, EntryKind, record_of
from accesslog.wire.message import Batch, UnreadableMessageError, read_message
from accesslog.wire.record import Record, time_text

BATCH_ENTRIES: Final = 16
"""The most entries that become lines before other tasks may run."""

BATCH_BYTES: Final = 32 * 1024
"""The most bytes of such entries together; a single entry may be longer. Their time grows with it."""

BATCH_SECONDS: Final = 0.002
"""The longest time before other tasks may run: an authz server in the same process tolerates little more.
A usual entry takes 30 us; one that a client has filled with escapes or bytes that are not UTF-8 takes many
times that."""

_RECEIVE_TIME: Final = "receive_time"
_RECEIVED: Final = PLACES[_RECEIVE_TIME]

_log = structlog.get_logger("accesslog")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings want done to every record."""

    redaction: Redaction
    sampling: Sampling
    max_record_bytes: int = MAX_RECORD_BYTES
    requests: RequestCounters | None = None
    """Counts the finished requests, those that are sampled out, too."""
    routes: RoutesRules | None = None
    """What is done to the records of single routes, in addition; None if no route has rules."""
    routes_revision: str = ""
    """The release that these belong to."""
    lines: LineMaker = field(init=False)
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", LineMaker(self.redaction))
        object.__setattr__(self, "judge", Judge(self.sampling, self.requests))


class EntryDecoder:
    """Turns the entries of one stream into batches of lines.

    The identifier comes with the first message of a stream and holds for all of it. A stream without one is
    accepted and counted: its entries are as good as others. State is kept by stream and never by node id,
    which two Envoys may share.
    """

    __slots__ = (
        "_blanks",
        "_clock",
        "_complained",
        "_identified",
        "_ledger",
        "_log_name",
        "_origin",
        "_random",
        "_shared",
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
        self._blanks: dict[str, Blank] = {}
        """The fragments of the origin by type of entries: made once, since a lone entry is a message, too."""
        self._shared: Mapping[str, str] = {}
        """What the records of a message have in common: the origin, and when it was read."""

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
            self._blanks.clear()
        elif self._identified is None:
            self._identified = False
            self._ledger.unidentified_streams += 1
        now = self._clock()
        received = time_text(int(now), int(now % 1 * 1e9))
        self._shared = {_RECEIVE_TIME: received, **self._origin}
        return self._batches_of(batch)

    def _batches_of(self, batch: Batch) -> Generator[LineBatch]:
        if batch.http:
            yield from self._line_batches(HTTP, batch.http)
        if batch.tcp:
            yield from self._line_batches(TCP, batch.tcp)

    def _line_batches(self, kind: EntryKind[Any], entries: Sequence[bytes]) -> Generator[LineBatch]:
        log = self._ledger.log(self._log_name, kind.name)
        waiting = len(entries)
        log.received += waiting
        blank = self._blank(kind.name)
        try:
            for part in _parts(entries):
                try:
                    rows = self.rules.lines.rows(kind.name, blank, part)
                except UNUSUAL:
                    for done, lines in self._one_by_one(kind, blank, part, log):
                        waiting -= done
                        yield LineBatch(log, lines, sum(map(len, lines)), waiting > 0)
                    continue
                waiting -= len(part)
                lines = self._lines(rows, log)
                yield LineBatch(log, lines, sum(map(len, lines)), waiting > 0)
        finally:
            if waiting:
                log.dropped[DropReason.STREAM_CANCELLED] += waiting

    def _blank(self, kind: str) -> Blank:
        """The fragments that the entries of a message have in common."""
        blank = self._blanks.get(kind)
        if blank is None:
            blank = self._blanks[kind] = LineMaker.blank(kind, self._origin)
        return {**blank, _RECEIVED: fragment_of({_RECEIVE_TIME: self._shared[_RECEIVE_TIME]})}

    def _lines(self, rows: Rows, log: LogCounters) -> tuple[bytes, ...]:
        rules = self.rules
        kept = rules.judge.kept(rows, self._random)
        if rules.routes is not None:
            rules.routes.apply_to_rows(rows)
        log.redacted += rows.redacted
        lines = rows.lines()
        if kept is not None and not all(kept):
            lines = list(compress(lines, kept))
            log.sampled_out += rows.count - len(lines)
        most = rules.max_record_bytes
        if max(map(len, lines), default=0) > most:
            shorter = [
                line if len(line) <= most else self._within_bounds(orjson.loads(line), log) for line in lines
            ]
            lines = [line for line in shorter if line is not None]
        return tuple(lines)

    def _one_by_one(
        self, kind: EntryKind[Any], blank: Blank, entries: Sequence[bytes], log: LogCounters
    ) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """How many entries were read, and their lines, a few at a time: these entries take longer."""
        lines: list[bytes] = []
        done = 0
        now = began = self._clock()
        for entry in entries:
            done += 1
            try:
                lines += self._lines(self.rules.lines.rows(kind.name, blank, (entry,)), log)
            except UNUSUAL:
                lines += self._line(kind, entry, now, log)
            if self._clock() - began >= BATCH_SECONDS:
                yield done, tuple(lines)
                lines, done, began = [], 0, self._clock()
        if done:
            yield done, tuple(lines)

    def _line(self, kind: EntryKind[Any], entry: bytes, now: float, log: LogCounters) -> tuple[bytes, ...]:
        """The line of an entry that protobuf has to read, or none."""
        rules = self.rules
        try:
            record = record_of(kind, entry, self._shared, now)
            rules.redaction.apply(record)
            kept = rules.judge.keeps(record, self._random)
            if rules.routes is not None:
                rules.routes.apply(record)
            if "redacted" in record:
                log.redacted += 1
            if not kept:
                log.sampled_out += 1
                return ()
            line = self._within_bounds(record, log)
        # A malformed entry must not cost the stream its other entries.
        except Exception as error:
            log.dropped[DropReason.MALFORMED] += 1
            self._complain(log, error)
            return ()
        return () if line is None else (line,)

    def _within_bounds(self, record: Record, log: LogCounters) -> bytes | None:
        line = json_line(record, self.rules.max_record_bytes)
        if line is None:
            log.dropped[DropReason.TOO_LARGE] += 1
        return line

    def _complain(self, log: LogCounters, error: Exception) -> None:
        """Log one example for each stream: the counter has the number, the example the reason."""
        if not self._complained:
            self._complained = True
            _log.warning("malformed entry dropped", log_name=log.name, type=log.type, error=repr(error))


def _parts(entries: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The entries in parts that take little time."""
    part: list[bytes] = []
    size_bytes = 0
    for entry in entries:
        size_bytes += len(entry)
        if part and (len(part) == BATCH_ENTRIES or size_bytes > BATCH_BYTES):
            yield part
            part, size_bytes = [], len(entry)
        part.append(entry)
    if part:
        yield part
