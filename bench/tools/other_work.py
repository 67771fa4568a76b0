"""Uses the CPU as the console's processes do, but asks no sidecar: `python -m bench.tools.other_work`.

It shows how much the kernel's scheduler delays checks, independent of the
sidecar. It runs until it is killed.
"""

import os
import time
from itertools import count
from typing import Final

from sidecars.console.priority import give_way

PAGE_SECONDS: Final = 0.25
"""Time from one page to the next."""

EVALUATED_EVERY: Final = 8
"""Pages to one evaluation of a policy."""

PAGE_CPU_SECONDS: Final = 0.005
"""The console takes 1 ms for most pages, and 16 ms for 200 decisions."""

EVALUATION_CPU_SECONDS: Final = 0.035
"""A forked process takes it to load the policy and explain a request, with what the console does."""


def main() -> None:
    """Work as for a page every PAGE_SECONDS, and as for an evaluation at each of EVALUATED_EVERY."""
    os.setsid()  # as the console's process does
    give_way()
    for number in count():
        _work(PAGE_CPU_SECONDS if number % EVALUATED_EVERY else EVALUATION_CPU_SECONDS)
        time.sleep(PAGE_SECONDS)


def _work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))


if __name__ == "__main__":
    main()
