"""Load shedding: a call that waited too long in this process is refused, and those behind it are answered."""

from collections.abc import Iterator
from itertools import islice

import pytest

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Unary, UnaryHandler
from sidecars.transport.http2.call_handler import Outcome
from sidecars.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    WINDOW_UPDATE,
    window_update,
)
from sidecars.transport.http2.shedding import FULL_READ_BYTES, Shedding
from sidecars.transport.http2.stream import ServerCall
from tests.support.transport import wire
from tests.support.transport.wire import (
    Bench,
    frame,
    message,
    parse,
    request,
    settings_received,
    status,
    stream_ids,
)

OK, RESOURCE_EXHAUSTED = 0, 8
LIMITS = Limits(
    turn_seconds=0.001,
    shed_after_share=0.25,
    connection_window_bytes=16 * 1024 * 1024,
    max_held_bytes=32 * 1024 * 1024,
)


class Slow(list[tuple[str, bytes]]):
    """What a bench has seen; each call takes 1 ms of its time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def append(self, seen: tuple[str, bytes]) -> None:
        super().append(seen)
        self._bench.now += 0.001


def call(stream_id: int, body: bytes = b"x", timeout: str | None = "20m", method: str = "/p/Echo") -> bytes:
    fields = () if timeout is None else (("grpc-timeout", timeout),)
    head = frame(HEADERS, END_HEADERS, stream_id, request(method, *fields))
    return head + frame(DATA, END_STREAM, stream_id, message(body.ljust(2_100, b".")))


def slow(limits: Limits = LIMITS) -> Bench:
    bench = settings_received(limits)
    bench.calls.seen = Slow(bench)
    return bench


def answers(bench: Bench, data: bytes, count: int) -> list[int]:
    """Return the status of each call of one read, which takes several turns."""
    output = bench.feed(data)
    while bench.connection.has_pending_input:
        output += bench.feed(b"")
    return [status(output, number) for number in stream_ids(count)]


def overloaded(bench: Bench, first: int = 1) -> Iterator[list[int]]:
    """Send 30 calls again and again; yield the statuses of each read."""
    while True:
        bench.feed(window_update(0, 2**20))
        numbers = range(first, first + 60, 2)
        first += 60
        output = bench.feed(b"".join(call(number) for number in numbers))
        while bench.connection.has_pending_input:
            output += bench.feed(b"")
        yield [status(output, number) for number in numbers]


def test_calls_that_waited_for_a_quarter_of_their_time_are_refused() -> None:
    bench = slow()
    reads = list(islice(overloaded(bench), 6))
    for found in reads:
        served = found.count(OK)
        assert found == [OK] * served + [RESOURCE_EXHAUSTED] * (30 - served)
    # A burst may wait for half of the time, until it has lasted for as long as a call may.
    assert [10 <= found.count(OK) <= 12 for found in reads[:2]] == [True, True]
    assert [5 <= found.count(OK) <= 7 for found in reads[3:]] == [True, True, True]
    assert len(bench.calls.seen) == sum(found.count(OK) for found in reads)


def test_a_burst_that_is_worked_off_in_half_of_the_time_loses_no_call() -> None:
    bench = slow()
    assert answers(bench, b"".join(call(number) for number in stream_ids(10)), 10) == [OK] * 10


def test_bursts_with_a_pause_between_them_are_no_overload() -> None:
    bench = slow()
    for number in range(8):
        assert 10 <= next(overloaded(bench, 1 + 100 * number)).count(OK) <= 12
        bench.now += 0.021


def test_what_comes_after_an_overload_is_answered() -> None:
    bench = slow()
    assert len(list(islice(overloaded(bench), 6))) == 6
    assert status(bench.feed(call(1001)), 1001) == OK
    bench.now += 0.021
    assert 10 <= next(overloaded(bench, 1101)).count(OK) <= 12


def test_calls_with_more_time_may_wait_for_longer() -> None:
    found = answers(slow(), b"".join(call(number, timeout="40m") for number in stream_ids(30)), 30)
    assert 20 <= found.count(OK) <= 22


@pytest.mark.parametrize(("timeout", "share"), [(None, 0.25), ("20m", None)])
def test_calls_without_a_timeout_and_without_the_limit_all_wait(
    timeout: str | None, share: float | None
) -> None:
    bench = slow(Limits(turn_seconds=0.001, shed_after_share=share))
    found = answers(bench, b"".join(call(number, timeout=timeout) for number in stream_ids(30)), 30)
    assert found == [OK] * 30


def test_urgent_calls_wait_for_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shed = []
    urgent = Unary(
        wire.echo, urgent=lambda body: body.startswith(b"urgent"), shed=lambda: shed.append("a call")
    )
    monkeypatch.setitem(wire.METHODS, b"/p/Echo", urgent)
    bench = slow()
    bodies = {number: b"urgent" if number % 4 == 1 else b"usual" for number in stream_ids(40)}
    found = answers(bench, b"".join(call(number, body) for number, body in bodies.items()), 40)
    served = [body for body, one in zip(bodies.values(), found, strict=True) if one == OK]
    assert served[:5] == [b"urgent", b"usual", b"urgent", b"usual", b"urgent"]
    assert set(served[13:]) == {b"urgent"}
    assert 14 <= len(served) <= 22
    assert len(shed) == 40 - len(served)


def test_a_refused_call_opens_the_window_again_and_leaves_nothing_behind() -> None:
    bench = slow(Limits(turn_seconds=0.001, shed_after_share=0.25))
    output = bench.feed(b"".join(call(number) for number in stream_ids(600)))
    while bench.connection.has_pending_input:
        output += bench.feed(b"")
    assert any(kind == WINDOW_UPDATE and stream == 0 for kind, _, stream, _ in parse(output))
    assert bench.connection.streams.receive_flow.window > 0
    assert not bench.connection.streams.table
    assert sum(status(output, number) == RESOURCE_EXHAUSTED for number in stream_ids(600)) >= 585


def test_the_deadline_of_a_call_counts_from_its_read() -> None:
    """Not from the turn in which it is begun: its caller waits all the time."""
    bench = slow(Limits(turn_seconds=0.001, shed_after_share=None))
    deadlines: list[float | None] = []
    answer = bench.calls.answer

    def noted(handler: UnaryHandler, message: bytes, call: ServerCall) -> Outcome:
        deadlines.append(call.deadline)
        return answer(handler, message, call)

    bench.calls.answer = noted  # type: ignore[method-assign]
    answers(bench, b"".join(call(number) for number in stream_ids(10)), 10)
    assert deadlines == [pytest.approx(0.02)] * 10


def test_a_read_that_was_postponed_has_waited_since_it_came() -> None:
    bench = slow()
    bench.connection.postpone(call(1), bench.now)
    bench.now += 0.011
    output = bench.feed(b"")
    assert status(output, 1) == RESOURCE_EXHAUSTED


def test_what_the_kernel_holds_has_waited_since_the_last_full_read() -> None:
    shedding = Shedding(0.25, 0.0)
    shedding.read(FULL_READ_BYTES, 1.0, pending=False)
    assert shedding.read_at == 1.0
    shedding.read(FULL_READ_BYTES, 1.5, pending=False)
    assert shedding.read_at == 1.0
    shedding.read(100, 2.0, pending=False)
    assert shedding.read_at == 1.0
    shedding.read(100, 2.5, pending=False)
    assert shedding.read_at == 2.5


def test_what_came_while_the_socket_was_not_read_has_waited_since_the_last_read() -> None:
    shedding = Shedding(0.25, 0.0)
    shedding.read(100, 1.0, pending=False)
    shedding.read(0, 1.5, pending=True)
    shedding.read(100, 1.501, pending=False)
    assert shedding.read_at == 1.0
    shedding.read(100, 1.502, pending=False)
    assert shedding.read_at == 1.501
    shedding.read(0, 1.6, pending=True)
    shedding.read(100, 2.0, pending=False)
    assert shedding.read_at == 2.0


def test_more_input_behind_what_is_pending_does_not_make_it_younger() -> None:
    shedding = Shedding(0.25, 0.0)
    shedding.read(100, 1.0, pending=False)
    shedding.read(0, 1.5, pending=True)
    shedding.read(100, 1.7, pending=True)
    assert shedding.read_at == 1.0
