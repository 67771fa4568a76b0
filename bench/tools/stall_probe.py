"""The longest time that a process leaves a call unanswered: `python -m bench.tools.stall_probe PID ORDER...`.

Asks each server in turn, one call at a time, and prints two numbers in milliseconds: the longest wait by the
clock and, of each wait, the longest part in which the process itself computed. On a busy machine a call also
waits for other processes; that part is not in the second number.
"""

import select
import socket
import sys
import time
from collections.abc import Sequence
from itertools import cycle

from bench.openloop.client import Client
from bench.openloop.order import Order
from bench.openloop.run import client_factory
from bench.tools.generator import READ_BYTES
from bench.tools.load import LoadError
from bench.tools.processes import run

PAUSE_SECONDS = 0.0005
ANSWER_SECONDS = 10.0


class _Caller:
    """One connection, with one call at a time."""

    def __init__(self, order: Order) -> None:
        self._new_client = client_factory(order)
        self._address = order.host, order.port
        self._calls = 0
        self._connect()

    def _connect(self) -> None:
        self._client: Client = self._new_client()
        self._socket = socket.create_connection(self._address, timeout=ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._client.opening())

    def call(self) -> None:
        """Return once a call is answered. Raises LoadError if it fails."""
        self._socket.sendall(self._client.call(self._calls))
        self._calls += 1
        while True:
            if not select.select([self._socket], (), (), ANSWER_SECONDS)[0]:
                raise LoadError(f"no answer within {ANSWER_SECONDS:g} s")
            ended, replies = self._client.feed(self._socket.recv(READ_BYTES))
            if replies:
                self._socket.sendall(replies)
            if ended and ended[0].failure:
                raise LoadError(ended[0].failure)
            if ended:
                break
        if self._client.exhausted:
            self._socket.close()
            self._connect()


def probe(pid: int, orders: Sequence[Order]) -> tuple[float, float]:
    """Return the longest wait in ms, and the longest part of one in which the process computed."""
    callers = cycle([_Caller(order) for order in orders])
    cpu_clock = ~pid << 3 | 2  # CLOCK_PROCESS_CPUTIME_ID of another process: clock_getcpuclockid(3)
    longest = computed = 0.0
    until = time.perf_counter() + orders[0].seconds
    while time.perf_counter() < until:
        time.sleep(PAUSE_SECONDS)
        caller = next(callers)
        began, cpu_before = time.perf_counter(), time.clock_gettime(cpu_clock)
        caller.call()
        waited = time.perf_counter() - began
        longest = max(longest, waited)
        computed = max(computed, min(waited, time.clock_gettime(cpu_clock) - cpu_before))
    return longest * 1000, computed * 1000


def probe_on(pid: int, orders: Sequence[Order], core: int) -> tuple[float, float]:
    """Return what `probe` does, from another process on `core`. Raises CalledProcessError."""
    command = [sys.executable, "-m", __name__, str(pid), *(order.dump() for order in orders)]
    longest, computed = run(command, core).split()[-2:]
    return float(longest), float(computed)


if __name__ == "__main__":
    print(*probe(int(sys.argv[1]), [Order.load(order) for order in sys.argv[2:]]))
