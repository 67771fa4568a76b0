"""Counts every entry exactly once: metrics show the sums, and tests check that they add up.

For each log (log_name and type) and each sink, at any moment:

    received + recovered{sink} = sampled_out + dropped before the sinks
                                 + written{sink} + dropped{sink} + in flight{sink}
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_LOGS: Final = 64
"""Each log name is a time series of every counter. Envoy's operator chooses them, a dozen is many; beyond
the bound, names are counted together as `(other)`."""

UNNAMED: Final = "unknown"
OTHER: Final = "(other)"
"""In parentheses, because few logs have such a name."""


class DropReason(StrEnum):
    """Why an entry was not written: the label `reason`."""

    MALFORMED = "malformed"
    """The entry cannot be parsed as its type, or holds a time outside the calendar."""
    TOO_LARGE = "too_large"
    """The record exceeds `max_record_bytes` even with long values cut."""
    QUEUE_FULL = "queue_full"
    """This sink had no room while another had."""
    STREAM_CANCELLED = "stream_cancelled"
    """The caller went away while the entry waited for room."""
    SPOOL_FULL = "spool_full"
    """The spool of this sink had no room while another sink had."""
    SPOOL_DAMAGED = "spool_damaged"
    """The disk no longer had what was written to the spool."""
    DISK_FULL = "disk_full"
    BROKEN_PIPE = "broken_pipe"
    """The reader of standard output has gone; it does not come back."""
    IO_ERROR = "io_error"
    UNREACHABLE = "unreachable"
    """The server of the sink did not answer."""
    REFUSED = "refused"
    """The server of the sink answered with an error."""
    SINK_DEFECT = "sink_defect"
    """The sink raised an unexpected exception; the log has its traceback."""
    SHUTDOWN = "shutdown"
    """The process ended before the sink had taken it."""


@dataclass(slots=True, eq=False)
class LogCounters:
    """The counters of one log: `name` as the metrics show it, `type` http or tcp. They count entries."""

    name: str
    type: str
    received: int = 0
    sampled_out: int = 0
    redacted: int = 0
    """Received entries in which something was redacted."""
    dropped: Counter[DropReason] = field(default_factory=Counter)
    """Dropped before any sink saw them."""
    written_to: Counter[str] = field(default_factory=Counter)
    dropped_by: Counter[tuple[str, DropReason]] = field(default_factory=Counter)
    recovered: Counter[str] = field(default_factory=Counter)
    """Entries that an earlier process left in the spool of a sink."""

    def in_flight(self, sink: str) -> int:
        """Entries on their way to `sink`."""
        lost = sum(count for (name, _), count in self.dropped_by.items() if name == sink)
        passed = self.received - self.sampled_out - self.dropped.total()
        return passed + self.recovered[sink] - self.written_to[sink] - lost


class EntryCounters:
    """The counters of all logs, at most `MAX_LOGS` names."""

    __slots__ = ("_logs", "_names", "unidentified_streams", "unreadable_messages")

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str], LogCounters] = {}
        self._names: set[str] = set()
        self.unidentified_streams = 0
        """Streams whose first message had no identifier, against the protocol."""
        self.unreadable_messages = 0
        """Messages that could not even be split into entries."""

    def log(self, name: str, kind: str) -> LogCounters:
        """The counters of the log `name` (empty: `unknown`) and type `kind`, opened when first asked for."""
        name = name or UNNAMED
        if name not in self._names:
            if len(self._names) >= MAX_LOGS:
                name = OTHER
            else:
                self._names.add(name)
        return self._logs.setdefault((name, kind), LogCounters(name, kind))

    def totals(self) -> dict[str, dict[str, float]]:
        """Entries of all logs by what became of them, and those lost by reason."""
        logs = tuple(self._logs.values())
        reasons: Counter[str] = Counter()
        for log in logs:
            reasons.update(log.dropped)
            for (_, reason), count in log.dropped_by.items():
                reasons[reason] += count
        return {
            "outcomes": {
                "received": sum(log.received for log in logs),
                "sampled_out": sum(log.sampled_out for log in logs),
                "redacted": sum(log.redacted for log in logs),
                "written": sum(log.written_to.total() for log in logs),
                "dropped": reasons.total(),
            },
            "reasons": dict(reasons),
        }

    def __iter__(self) -> Iterator[LogCounters]:
        return iter(tuple(self._logs.values()))
