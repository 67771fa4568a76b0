"""When Python's garbage collector runs: about once a second, and not for every few hundred new objects.

The calls of a process leave no reference cycles, so reference counting frees them, and collections find
nothing. They still cost time: by its own thresholds (700 objects, 2,000 from Python 3.13 on) Python walks the
handlers of a thousand new log streams dozens of times, and delays all other calls by up to 30 ms.
"""

import asyncio
import gc
from typing import Final

MAX_YOUNG_OBJECTS: Final = 50_000
"""Objects that may be created, beyond those freed, before Python collects at once: more than the handlers of
`max_handlers` streams consist of. Walking as many takes about 10 ms. If all of them are garbage, they take
some 10 MB until then."""

INTERVAL_SECONDS: Final = 1.0
"""How often the thresholds of Python apply, so that cycles (an error with its traceback, a client library)
do not wait for `MAX_YOUNG_OBJECTS`."""


async def collect_rarely() -> None:
    """Keep collections rare until cancelled; then Python's thresholds apply again.

    Every `INTERVAL_SECONDS` Python may collect by its own rules: not at all when little is new, and old
    objects only if a quarter as many were added (the incremental collector of 3.14: a part of them).
    """
    own = gc.get_threshold()
    rare = (MAX_YOUNG_OBJECTS, *own[1:])
    gc.set_threshold(*rare)
    try:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            collect_if_due(own)
            gc.set_threshold(*rare)
    finally:
        gc.set_threshold(*own)


def collect_if_due(threshold: tuple[int, int, int]) -> None:
    """Make Python collect now if more is new than `threshold` allows. It remains in effect.

    `gc.collect` does not do: it collects even if little is new, and while `gc.disable` is in effect.
    """
    gc.set_threshold(*threshold)
    created: set[object]
    for _ in range(2):  # Python checks when it creates an object (3.11) or at the next jump (3.12 and later)
        created = set()
    del created
