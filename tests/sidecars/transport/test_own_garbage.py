"""What a connection leaves behind when it is over: nothing that waits for a collection of garbage."""

import gc
from collections.abc import Iterator

import pytest

from sidecars.transport import frames
from sidecars.transport.connection import Connection
from tests.sidecars.transport.wire import OPENING, Bench, frame, request

FAULTS = {
    "no preface": b"GET / HTTP/1.1\r\n\r\n" + b"x" * 24,
    "a broken block": OPENING + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff" * 40),
    "an even stream": OPENING + frame(frames.HEADERS, frames.END_HEADERS, 2, request("/p/Echo")),
    "a short ping": OPENING + frame(frames.PING, 0, 0, b"x"),
}


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connections() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("wire", FAULTS.values(), ids=FAULTS)
def test_a_connection_that_ended_by_a_fault_is_freed_at_once(wire: bytes) -> None:
    """Whoever opens and breaks them by the thousand must not find their memory still taken."""
    before = connections()
    bench = Bench()
    bench.feed(wire)
    assert bench.connection.fault is not None
    assert connections() == before + 1
    bench.connection.lost()
    del bench
    assert connections() == before
