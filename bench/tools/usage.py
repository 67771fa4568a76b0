"""CPU time and memory of processes."""

from dataclasses import dataclass

from bench.tools.processes import cpu_seconds, resident_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used by a moment."""

    cpu_seconds: float
    resident_bytes: int


def usage(pid: int) -> Usage:
    """Return the CPU time, in nanoseconds as the scheduler counts it, and the memory of a process."""
    return Usage(cpu_seconds(pid), resident_bytes(pid))
