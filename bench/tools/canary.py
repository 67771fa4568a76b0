"""Tells when a core did not run a process that was due: `python -m bench.tools.canary`.

Sleeps for a millisecond over and over, until SIGTERM. Prints a JSON list of the pauses that were much longer:
when each began and ended (CLOCK_MONOTONIC).
"""

import signal
import sys
import time
from typing import Final

import orjson

PAUSE_SECONDS: Final = 0.001
LATE_SECONDS: Final = 0.003


def watch() -> list[tuple[float, float]]:
    """Return the pauses until SIGTERM."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    found: list[tuple[float, float]] = []
    before = time.monotonic()
    while not stopping:
        time.sleep(PAUSE_SECONDS)
        now = time.monotonic()
        if now - before > PAUSE_SECONDS + LATE_SECONDS:
            found.append((before, now))
        before = now
    return found


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(watch()))
