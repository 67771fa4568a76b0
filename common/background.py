"""Runs work that takes seconds in a thread next to a loop that answers in microseconds."""

import gc
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

SWITCH_SECONDS: Final = 0.0005
"""How long the loop waits for the interpreter while a thread loads. Python's own 5 ms would be added to
every answer; shorter costs the loader a few percent."""


BREAK_SECONDS: Final = 0.0001
WORK_SECONDS: Final = 0.001
"""Time between two breaks. They slow the loader by a tenth and more than halve the delay of the loop; on a
core that both share they keep the kernel from taking the thread for one that should finish its slice."""


class GilYielder:
    """Interrupts a thread's work with short breaks that give the loop the interpreter and the core."""

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
    """Make all threads of the process hand over the interpreter often from now on.

    Call it before any thread has work: a waiting thread reads this setting when its wait begins, so the
    first answer would be 5 ms late if the busy thread set it itself.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))


@contextmanager
def background_work() -> Iterator[None]:
    """Use in a thread: hands over the interpreter often, and allows no garbage collection.

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
    """Exclude all live objects from later garbage collections: a large policy takes half a second to scan.

    A policy has no cycles, so it is still freed when it is no longer used. Other cycles that
    are garbage at this moment stay forever: use it for large policies only, which are rarely loaded.
    """
    gc.freeze()


POLL_SECONDS: Final = 0.01
"""How often `release` checks whether the last user of a root is gone."""


class Composite(Protocol):
    """An object that can list the parts it consists of."""

    def parts(self) -> Iterable[object]:
        """Yield the objects that it owns, each before the objects that it owns itself."""


Root = TypeVar("Root", bound=Composite)


def release(roots: list[Root], yield_gil: Callable[[], None], *, wait_seconds: float = 0.0) -> None:
    """Free large objects part by part, in a thread. Empties `roots`, which must hold the last references.

    An object that is freed through its root goes in one step: 0.1 s for a policy of 10,000 rules, in which no
    other thread runs. So this lists the parts, drops the roots and then frees the parts one by one.

    `wait_seconds`: how long to wait for other users of the roots; after that, the last user frees the rest.
    """
    parts: list[object] = []
    users: list[weakref.ref[Root]] = []
    with background_work():
        while roots:
            root = roots.pop()
            for part in root.parts():
                parts.append(part)
                yield_gil()
            if wait_seconds:
                users.append(weakref.ref(root))
        root = part = None  # type: ignore[assignment]  # the last references of this function
    deadline = time.monotonic() + wait_seconds
    while any(user() is not None for user in users) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    parts.reverse()  # an owner is freed before what it owns, which is therefore not freed with it
    with background_work():
        while parts:
            parts.pop()
            yield_gil()
