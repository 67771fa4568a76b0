"""Processes that tests look at by their ids (proc(5))."""

import signal
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process ends within ten seconds; a zombie has ended."""
    for _ in range(1000):
        if not is_running(pid):
            return True
        signal.sigtimedwait([], 0.01)
    return False


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
