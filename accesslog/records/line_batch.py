"""Lines on their way from the decoder to the sinks."""

from dataclasses import dataclass

from accesslog.records.counters import LogCounters


@dataclass(frozen=True, slots=True, eq=False)
class LineBatch:
    """Lines of one log that arrived together: the unit of the queues."""

    log: LogCounters
    lines: tuple[bytes, ...]
    size_bytes: int
    more: bool = False
    """Whether the message holds more: yield to the loop before asking for it."""
