"""Runs an order: `python -m bench.openloop.run ORDER`, with the order as JSON, prints the outcome."""

import gc
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable

import orjson

from bench.openloop.client import Client
from bench.openloop.drive import Driver, Period, Tally
from bench.openloop.grpc import OPENING, GrpcClient
from bench.openloop.http1 import Http1Client
from bench.openloop.latency import Latency
from bench.openloop.order import MOST_CONNECTIONS, Order, Outcome, read_requests
from bench.openloop.schedule import BackToBack, ConstantRate, InTurn, Schedule
from bench.tools.generator import (
    CALLS_A_CONNECTION,
    HEADER_TABLE_SIZE,
    READ_BYTES,
    SETTING,
    first_settings,
    header_blocks,
)
from bench.tools.load import LoadError
from bench.tools.processes import allow_open_files, run

_CONNECT_SECONDS = 10.0
_LEAD_SECONDS = 0.01
_FEWEST_CALLS = 500
_MOST_PER_SECOND = 50_000


class Sockets:
    """TCP connections to one server, and waiting with a resolution of microseconds."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._sockets: dict[int, socket.socket] = {}
        self._numbers: dict[socket.socket, int] = {}

    def connect(self, number: int, opening: bytes) -> None:
        """Open, or open again, the connection with this number."""
        if (old := self._sockets.pop(number, None)) is not None:
            del self._numbers[old]
            old.close()
        new = socket.create_connection(self._address, timeout=_CONNECT_SECONDS)
        new.settimeout(None)
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new.sendall(opening)
        self._sockets[number] = new
        self._numbers[new] = number

    def send(self, number: int, data: bytes) -> None:
        """Send on a connection."""
        self._sockets[number].sendall(data)

    def wait(self, seconds: float) -> Iterable[tuple[int, bytes]]:
        """Yield what arrives within that time."""
        for ready in select.select(list(self._numbers), (), (), seconds)[0]:
            number = self._numbers.get(ready)
            if number is None:  # replaced since, because a send on it failed
                continue
            try:
                data = ready.recv(READ_BYTES)
            except OSError:
                data = b""
            yield number, data

    def close(self) -> None:
        """Close all."""
        for connection in self._sockets.values():
            connection.close()


def perform(order: Order) -> Outcome:
    """Send the load and return the outcome. Raises LoadError and OSError."""
    new_client = client_factory(order)
    allow_open_files(MOST_CONNECTIONS + 24)
    sockets = Sockets(order.host, order.port)
    driver = Driver(new_client, order.connections, sockets, time.perf_counter)
    gc.collect()
    gc.disable()  # a collection would make calls late; all that is kept are numbers
    cpu_before, began = time.process_time(), time.perf_counter()
    begin = began + _LEAD_SECONDS
    measured_from = begin + order.warm_up_seconds
    end = measured_from + order.seconds
    schedule = _schedule(order, begin, measured_from)
    tally = driver.run(schedule, Period(measured_from, end, end + order.patience_seconds))
    cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - began)
    gc.enable()
    sockets.close()
    return _outcome(order, tally, cpu_share)


def _schedule(order: Order, begin: float, measured_from: float) -> Schedule:
    if order.per_second is None:
        return BackToBack()
    if order.warm_up_per_second is None:
        return ConstantRate(begin, order.per_second)
    before = ConstantRate(begin, order.warm_up_per_second)
    return InTurn(before, ConstantRate(measured_from, order.per_second), measured_from)


def _outcome(order: Order, tally: Tally, cpu_share: float) -> Outcome:
    return Outcome(
        per_second=order.per_second,
        rps=tally.in_time / order.seconds,
        latency=Latency.of_seconds(tally.responses),
        service=Latency.of_seconds(tally.services),
        lateness=Latency.of_seconds(tally.lateness),
        calls=len(tally.responses),
        failures=dict(tally.failures),
        waited=tally.waited,
        unfinished=tally.unfinished,
        cpu_share=cpu_share,
        answers=Latency.of_seconds(tally.answers),
        refusals=Latency.of_seconds(tally.refusals),
    )


def client_factory(order: Order) -> Callable[[], Client]:
    """Return what makes a client for each connection of an order. Raises LoadError and OSError."""
    requests = read_requests(order.requests)
    if not requests:
        raise LoadError(f"{order.requests} has no request")
    if order.protocol == "http1":
        return lambda: Http1Client(requests)
    with socket.create_connection((order.host, order.port), timeout=_CONNECT_SECONDS) as probe:
        probe.sendall(OPENING)
        settings, _ = first_settings(probe)
    table_bytes = dict(SETTING.iter_unpack(settings)).get(HEADER_TABLE_SIZE, 4096)
    count = _calls_a_connection(order)
    blocks = header_blocks(order.path, count, table_bytes, tracing=order.tracing, timeout=order.timeout)
    return lambda: GrpcClient(blocks, requests, order.streams)


def _calls_a_connection(order: Order) -> int:
    """Return how many header blocks to prepare, which takes longer than a short load."""
    per_second = _MOST_PER_SECOND if order.per_second is None else order.per_second
    before = order.warm_up_per_second or per_second
    expected = (before * order.warm_up_seconds + per_second * order.seconds) / order.connections
    return min(CALLS_A_CONNECTION, max(_FEWEST_CALLS, round(expected)))


def perform_on(order: Order, core: int) -> Outcome:
    """Send the load from another process, pinned to `core`. Raises CalledProcessError."""
    output = run([sys.executable, "-m", "bench.openloop.run", order.dump()], core)
    return Outcome.load(orjson.loads(output.splitlines()[-1]))


if __name__ == "__main__":
    print(orjson.dumps(perform(Order.load(sys.argv[1])).dump()).decode())
