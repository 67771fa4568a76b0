"""The circuit breaker, with a fake clock and without Redis."""

from common.circuit_breaker import MAX_DOUBLINGS, CircuitBreaker, CircuitState


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker_and_clock(random: float = 0.0) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    return CircuitBreaker(clock, lambda: random, failures=3, open_seconds=1.0), clock


def opened(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()


def test_opens_after_so_many_failures_in_a_row() -> None:
    breaker, _ = breaker_and_clock()
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.state is CircuitState.OPEN
    assert breaker.blocks
    assert not breaker.allows()


def test_one_try_goes_through_when_the_time_has_come() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    clock.now += 1.0
    assert breaker.allows()
    assert breaker.state is CircuitState.HALF_OPEN
    assert not breaker.allows()


def test_blocks_says_the_same_without_making_the_try() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    seen = [breaker.blocks]
    clock.now += 1.0
    seen.append(breaker.blocks)
    assert breaker.allows()
    seen.append(breaker.blocks)
    assert seen == [True, False, True]


def test_a_try_that_succeeds_closes_it() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    clock.now += 1.0
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state is CircuitState.CLOSED
    assert not breaker.blocks


def test_a_try_that_fails_doubles_the_wait_up_to_a_bound() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    wait = 1.0
    for tries in range(1, MAX_DOUBLINGS + 3):
        clock.now += wait
        assert breaker.allows()
        breaker.failed()
        wait = 2.0 ** min(tries, MAX_DOUBLINGS)
        clock.now += wait - 0.01
        assert not breaker.allows()
        clock.now -= wait - 0.01
    assert breaker.opened == MAX_DOUBLINGS + 3


def test_success_forgets_the_doublings() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    clock.now += 1.0
    assert breaker.allows()
    breaker.failed()
    clock.now += 2.0
    assert breaker.allows()
    breaker.succeeded()
    opened(breaker)
    clock.now += 1.0
    assert breaker.allows()


def test_a_try_without_a_reported_end_is_repeated() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    clock.now += 1.0
    assert breaker.allows()
    clock.now += 1.0
    assert breaker.allows()


def test_many_sidecars_do_not_all_come_back_at_once() -> None:
    breaker, clock = breaker_and_clock(random=1.0)
    opened(breaker)
    clock.now += 1.49
    assert not breaker.allows()
    clock.now += 0.01
    assert breaker.allows()


def test_failures_of_calls_begun_before_it_opened_change_nothing() -> None:
    breaker, clock = breaker_and_clock()
    opened(breaker)
    clock.now += 0.9
    breaker.failed()
    clock.now += 0.1
    assert breaker.allows()
    assert breaker.opened == 1


def test_it_reports_when_it_opens_and_when_it_closes() -> None:
    clock, result = Clock(), list[CircuitState]()
    breaker = CircuitBreaker(clock, lambda: 0.0, failures=1, open_seconds=1.0, changed=result.append)
    breaker.succeeded()
    breaker.failed()
    clock.now += 1.0
    assert breaker.allows()
    breaker.succeeded()
    assert result == [CircuitState.OPEN, CircuitState.CLOSED]
