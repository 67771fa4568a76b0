"""How the kernel treats the processes of the console: after those that serve."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

NICENESS: Final = 10
"""A tenth of the weight of a process that serves: where all cores are busy, pages become slow, but go on."""

_AUTOGROUP: Final = Path("/proc/self/autogroup")
_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.1


def give_way() -> None:
    """Lower the priority of this process, which leads a session, to NICENESS.

    Where the kernel groups processes by session (sched(7), "The autogroup feature"), `nice` orders only those
    of one session, and a busy process keeps those of other sessions waiting for milliseconds. So the session
    gets the niceness, too.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):  # this kernel has no such groups, or they cannot be changed here
        for _ in range(_TRIES):
            try:
                _AUTOGROUP.write_text(f"{NICENESS}\n", encoding="ascii")
            except BlockingIOError:  # without privileges it can be changed ten times a second
                time.sleep(_PAUSE_SECONDS)
            else:
                break


def end_first(expendable: int) -> None:
    """Have the kernel end this process before others where memory is short (oom_score_adj in proc(5))."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{expendable}\n", encoding="ascii")
