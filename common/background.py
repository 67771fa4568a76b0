"""Work that takes seconds beside a loop that answers in microseconds."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_SECONDS: Final = 0.0005
"""How long the loop waits for the interpreter while a thread loads. Python's own 5 ms would be added to
every answer; shorter costs the loader a few percent."""


BREAK_SECONDS: Final = 0.0001
WORK_SECONDS: Final = 0.001
"""Between two breaks. They cost the loader a tenth and more than halve how late the loop is meanwhile; on a
core that both share they keep the kernel from taking the thread for one that should finish its slice."""


class GilYielder:
    """Makes a thread's work short breaks in which the loop has the interpreter, and the core, at once."""

    __slots__ = ("_clock", "_due", "_sleep")

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._due = clock() + WORK_SECONDS

    def yield_gil(self) -> None:
        """Sleep, if it is time again. Costs a tenth of a microsecond if it is not."""
        if self._clock() >= self._due:
            self._sleep(BREAK_SECONDS)
            self._due = self._clock() + WORK_SECONDS


def shorten_switch_interval() -> None:
    """Have threads hand the interpreter over often from now on, in the whole process.

    Before any thread has work: whoever waits looks at this setting when the wait begins, so that the
    first answer beside a thread that only sets it itself would be 5 ms late.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))


@contextmanager
def background_work() -> Iterator[None]:
    """For a thread: hands the interpreter over often, and lets no garbage collection happen.

    A collection looks at every object alive, in one go: half a second, several times over, while a
    policy of 10,000 rules is being made. Both settings are those of the whole process, and are put
    back at the end.
    """
    interval, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(min(interval, SWITCH_SECONDS))
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


def freeze_gc() -> None:
    """Put all that is alive where no later collection looks: a large policy is half a second to look at.

    A policy has no cycles, so it is freed all the same when nobody uses it any more. Other cycles that
    are garbage at this moment stay for ever: for large policies only, which are not loaded often.
    """
    gc.freeze()
