"""The turns of the event loop, and who is next: the scheduler alone."""

import asyncio
from functools import partial

from sidecars.transport.server.scheduler import (
    HANDLER_BYTES,
    HANDLERS_A_TURN,
    MESSAGE_COST_BYTES,
    SHORTEST_SLICE_SECONDS,
    TURN_BYTES,
    TURN_SECONDS,
    FairScheduler,
)
from tests.support.transport.harness import within


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


class Clock:
    """A clock on which only work takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_each_connection_in_line_has_one_turn_after_the_other() -> None:
    clock, order = Clock(), list[str]()
    scheduler = FairScheduler(asyncio.get_running_loop(), clock)

    def go(name: str) -> None:
        order.append(name)
        clock.now += TURN_SECONDS

    for name in ("flood", "flood", "flood", "honest"):
        scheduler.enqueue(name, partial(go, name))
    for expected in range(5):
        assert len(order) == min(expected, 4)
        await turn()
    assert order == ["flood", "honest", "flood", "flood"]


async def test_what_waits_in_line_shares_a_turn_as_far_as_it_has_time() -> None:
    clock, order = Clock(), list[int]()
    scheduler = FairScheduler(asyncio.get_running_loop(), clock)

    def go(number: int) -> None:
        order.append(number)
        clock.now += TURN_SECONDS / 2.5

    for number in range(7):
        scheduler.enqueue(number, partial(go, number))
    for expected in (0, 3, 6, 7):
        assert order == list(range(expected))
        await turn()


async def test_handlers_in_line_have_as_many_places_in_a_turn_as_others() -> None:
    scheduler, order = FairScheduler(asyncio.get_running_loop(), lambda: 0.0), list[int]()
    for number in range(2 * HANDLERS_A_TURN):
        scheduler.enqueue(number, partial(order.append, number), HANDLER_BYTES)
    await turn()
    assert len(order) == HANDLERS_A_TURN
    await turn()
    assert len(order) == 2 * HANDLERS_A_TURN


async def test_a_handler_that_was_woken_in_line_has_time_after_a_full_turn_of_others() -> None:
    clock = Clock()
    scheduler = FairScheduler(asyncio.get_running_loop(), clock)

    def read() -> None:
        clock.now += 2 * TURN_SECONDS

    for _ in range(2):
        scheduler.enqueue("reads", read)
    times = []
    await turn()
    times.append(scheduler.has_time)
    clock.now += 2 * TURN_SECONDS
    times.append(scheduler.has_time)
    await turn()
    times.append(scheduler.has_time)
    assert times == [True, False, True]


async def test_the_connections_in_line_share_the_time_for_reads() -> None:
    scheduler = FairScheduler(asyncio.get_running_loop(), lambda: 0.0)
    shares = []
    for number in range(20):
        shares.append(scheduler.slice_seconds(0.001))
        scheduler.enqueue(number, lambda: None)
    assert shares[:3] == [0.001, 0.0005, 0.001 / 3]
    assert shares[-1] == SHORTEST_SLICE_SECONDS
    assert scheduler.slice_seconds(SHORTEST_SLICE_SECONDS / 2) == SHORTEST_SLICE_SECONDS / 2


async def test_what_lines_up_in_its_turn_has_another() -> None:
    clock, order = Clock(), list[str]()
    scheduler = FairScheduler(asyncio.get_running_loop(), clock)

    def go(name: str) -> None:
        order.append(name)
        clock.now += TURN_SECONDS
        if name == "again":
            scheduler.enqueue(name, partial(go, name))

    scheduler.enqueue("again", partial(go, "again"))
    scheduler.enqueue("other", partial(go, "other"))
    for _ in range(4):
        await turn()
    assert order == ["again", "other", "again", "again"]


async def test_what_fits_in_the_turn_runs_at_once_and_the_rest_in_line() -> None:
    scheduler, order = FairScheduler(asyncio.get_running_loop(), lambda: 0.0), list[str]()
    for name in ["flood"] * (HANDLERS_A_TURN + 2) + ["honest"]:
        scheduler.run(name, partial(order.append, name))
    assert order == ["flood"] * HANDLERS_A_TURN
    await within(scheduler.wait_until_empty())
    assert order[HANDLERS_A_TURN:] == ["flood", "honest", "flood"]


async def test_a_turn_is_spent_by_time_too() -> None:
    now = [0.0]
    scheduler = FairScheduler(asyncio.get_running_loop(), lambda: now[0])
    scheduler.spend(0)
    room = [scheduler.has_room]
    now[0] = 2 * TURN_SECONDS
    room.append(scheduler.has_room)
    await turn()
    assert [*room, scheduler.has_room] == [True, False, True]


async def test_a_turn_is_spent_by_large_messages_and_by_many_small_ones() -> None:
    scheduler = FairScheduler(asyncio.get_running_loop(), lambda: 0.0)
    for size, most in ((TURN_BYTES, 1), (0, TURN_BYTES // MESSAGE_COST_BYTES)):
        for _ in range(most):
            assert scheduler.has_room
            scheduler.spend(size)
        assert not scheduler.has_room
        await turn()


async def test_a_handler_that_is_cancelled_in_line_is_passed_over() -> None:
    scheduler = FairScheduler(asyncio.get_running_loop(), lambda: 0.0)
    first, second = (asyncio.create_task(scheduler.wait("a")) for _ in range(2))
    await turn()
    first.cancel()
    await within(second)
    assert first.cancelled()
