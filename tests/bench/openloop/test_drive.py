"""The generator on a virtual clock, against servers whose faults are known."""

import heapq
from collections.abc import Callable, Iterable

import pytest

from bench.openloop.drive import Driver, Period, Tally
from bench.openloop.http1 import Http1Client
from bench.openloop.latency import Latency
from bench.openloop.order import Outcome
from bench.openloop.schedule import BackToBack, ConstantRate, Schedule

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SERVICE_SECONDS = 0.001

Delay = Callable[[float], float | None]
"""How long a request that arrives at a time takes; None if it is never answered."""


class VirtualServer:
    """Answers each request after the time that `delay` says; `oversleep` makes the generator late."""

    def __init__(self, delay: Delay, oversleep: float = 0.0, closes_at: int = -1) -> None:
        self.now = 0.0
        self.received = 0
        self._delay = delay
        self._oversleep = oversleep
        self._closes_at = closes_at
        self._replies: list[tuple[float, int, bytes]] = []

    def clock(self) -> float:
        return self.now

    def connect(self, number: int, opening: bytes) -> None:
        self._replies = [reply for reply in self._replies if reply[1] != number]
        heapq.heapify(self._replies)

    def send(self, number: int, data: bytes) -> None:
        self.received += 1
        delay = self._delay(self.now)
        if delay is not None:
            reply = b"" if self.received == self._closes_at else OK
            heapq.heappush(self._replies, (self.now + delay, number, reply))

    def wait(self, seconds: float) -> Iterable[tuple[int, bytes]]:
        until = self.now + seconds + self._oversleep
        if not self._replies or self._replies[0][0] > until:
            self.now = until
            return
        self.now = max(self.now, self._replies[0][0])
        while self._replies and self._replies[0][0] <= self.now:
            _, number, reply = heapq.heappop(self._replies)
            yield number, reply


def stalled(begin: float, end: float) -> Delay:
    """Nothing is answered from `begin` to `end`, and all of it then."""
    return lambda now: SERVICE_SECONDS + (end - now if begin <= now < end else 0.0)


def driven(server: VirtualServer, schedule: Schedule, period: Period, connections: int = 1) -> Tally:
    driver = Driver(lambda: Http1Client([b"GET"]), connections, server, server.clock)
    return driver.run(schedule, period)


def above(times: Iterable[float], seconds: float) -> int:
    return sum(time > seconds for time in times)


TEN_SECONDS = Period(measured_from=0.0, end=10.0, patience_end=12.0)


@pytest.mark.parametrize("connections", [1, 8])
def test_calls_due_in_a_stall_of_the_server_count_from_their_intended_start(connections: int) -> None:
    """At 100 calls a second 100 users meet a stall of a second, and half of them wait more than 0.5 s."""
    server = VirtualServer(stalled(5.0, 6.0))
    tally = driven(server, ConstantRate(0.0, 100), TEN_SECONDS, connections)
    assert len(tally.responses) == 1000
    assert 49 <= above(tally.responses, 0.5) <= 60  # the last ones also wait while the debt is paid off
    assert max(tally.responses) == pytest.approx(1.0, abs=0.02)
    assert above(tally.services, 0.5) <= connections
    assert max(tally.lateness) < 1e-6
    assert tally.waited >= 100 - connections
    assert not tally.unfinished
    assert not tally.failures


def test_a_closed_loop_omits_the_calls_that_the_stall_kept_back() -> None:
    server = VirtualServer(stalled(5.0, 6.0))
    tally = driven(server, BackToBack(), TEN_SECONDS)
    assert above(tally.responses, 0.5) == 1
    assert len(tally.responses) == pytest.approx(9000, abs=5)


def test_a_server_that_keeps_up_is_measured_without_distortion() -> None:
    tally = driven(VirtualServer(lambda _: SERVICE_SECONDS), ConstantRate(0.0, 100), TEN_SECONDS)
    assert list(tally.responses) == pytest.approx([SERVICE_SECONDS] * 1000)
    assert tally.in_time == 1000
    assert not tally.waited


def test_a_server_slower_than_the_rate_makes_later_calls_wait_longer() -> None:
    """At 20 ms each, one connection completes 50 of 100 calls a second, and half of the time is debt."""
    tally = driven(VirtualServer(lambda _: 0.02), ConstantRate(0.0, 100), TEN_SECONDS)
    assert tally.in_time == pytest.approx(500, abs=2)
    assert len(tally.responses) == 1000
    assert tally.responses[499] == pytest.approx(5.0, abs=0.1)
    assert tally.unfinished == pytest.approx(400, abs=2)
    assert max(tally.responses) == pytest.approx(6.0, abs=0.1)


def test_calls_that_are_never_answered_count_with_the_time_that_they_waited() -> None:
    server = VirtualServer(lambda now: SERVICE_SECONDS if now < 5 else None)
    tally = driven(server, ConstantRate(0.0, 100), TEN_SECONDS, connections=3)
    assert tally.unfinished == pytest.approx(500, abs=1)
    assert len(tally.responses) == 1000
    assert above(tally.responses, 2.0) == pytest.approx(500, abs=2)


def test_a_generator_that_oversleeps_says_that_it_was_late() -> None:
    tally = driven(
        VirtualServer(lambda _: SERVICE_SECONDS, oversleep=0.005), ConstantRate(0.0, 10), TEN_SECONDS
    )
    assert min(tally.lateness[1:]) >= 0.005 - 1e-9
    assert "late (p99)" in outcome(tally, cpu_share=0.1).bottleneck


def test_a_stall_of_the_server_is_not_blamed_on_the_generator() -> None:
    tally = driven(VirtualServer(stalled(5.0, 6.0)), ConstantRate(0.0, 100), TEN_SECONDS)
    assert not outcome(tally, cpu_share=0.1).bottleneck


def test_a_generator_that_needs_its_whole_core_says_so() -> None:
    tally = driven(VirtualServer(lambda _: SERVICE_SECONDS), BackToBack(), TEN_SECONDS)
    assert "97% of its core" in outcome(tally, cpu_share=0.97).bottleneck
    assert not outcome(tally, cpu_share=0.5).bottleneck


def test_calls_of_the_warm_up_are_not_measured() -> None:
    server = VirtualServer(stalled(0.0, 1.0))
    tally = driven(server, ConstantRate(0.0, 100), Period(3.0, 10.0, 12.0))
    assert len(tally.responses) == 700
    assert max(tally.responses) == pytest.approx(SERVICE_SECONDS)


def test_a_connection_that_the_server_closes_fails_its_call_and_is_opened_again() -> None:
    server = VirtualServer(lambda _: SERVICE_SECONDS, closes_at=300)
    tally = driven(server, ConstantRate(0.0, 100), TEN_SECONDS)
    assert tally.failures == {"closed without a response": 1}
    assert len(tally.responses) == 1000


def outcome(tally: Tally, cpu_share: float) -> Outcome:
    return Outcome(
        per_second=100.0 if cpu_share < 0.5 else None,
        rps=1.0,
        latency=Latency.of_seconds(tally.responses),
        service=Latency.of_seconds(tally.services),
        lateness=Latency.of_seconds(tally.lateness),
        calls=len(tally.responses),
        failures=dict(tally.failures),
        waited=tally.waited,
        unfinished=tally.unfinished,
        cpu_share=cpu_share,
    )
