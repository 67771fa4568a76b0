"""CPU time and memory of processes."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.tools.processes import resident_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used by a moment."""

    cpu_seconds: float
    resident_bytes: int


def usage(pid: int) -> Usage:
    """Return the CPU time, in nanoseconds as the scheduler counts it, and the memory of a process."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return Usage(nanoseconds / 1e9, resident_bytes(pid))
