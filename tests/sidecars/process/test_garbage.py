"""Collections of garbage: rare, and still often enough for the cycles that occur."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from sidecars.process import garbage
from sidecars.process.garbage import MAX_YOUNG_OBJECTS, collect_if_due, collect_rarely
from tests.support.transport.harness import until


class Cycle:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    gc.collect()
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.enable()


def passes() -> int:
    """How many collections there were, of any generation."""
    return sum(generation["collections"] for generation in gc.get_stats())


def left() -> weakref.ref[Cycle]:
    """Garbage that waits for a collection."""
    return weakref.ref(Cycle())


def test_garbage_is_collected_once_more_is_new_than_python_allows() -> None:
    gc.set_threshold(MAX_YOUNG_OBJECTS)
    gc.collect()
    waiting, kept = left(), [set[int]() for _ in range(1_000)]
    assert waiting() is not None
    collect_if_due((700, 10, 10))
    assert waiting() is None
    assert kept


def test_nothing_is_collected_while_little_is_new() -> None:
    gc.set_threshold(MAX_YOUNG_OBJECTS)
    gc.collect()
    before = passes()
    waiting = left()
    collect_if_due((700, 10, 10))
    assert waiting() is not None
    assert passes() == before


def test_nothing_is_collected_while_collection_is_disabled() -> None:
    """Policies and limits are loaded without collections, in a thread."""
    gc.disable()
    waiting, kept = left(), [set[int]() for _ in range(1_000)]
    collect_if_due((700, 10, 10))
    assert waiting() is not None
    assert kept


async def test_collections_are_rare_while_the_process_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers of thousands of log streams: none of Python's passes over each few hundred of them."""
    monkeypatch.setattr(garbage, "INTERVAL_SECONDS", 3600)
    own = gc.get_threshold()
    collecting = asyncio.create_task(collect_rarely())
    await asyncio.sleep(0)
    gc.collect()
    before = passes()
    kept = [set[int]() for _ in range(MAX_YOUNG_OBJECTS // 2)]
    assert passes() == before
    kept += [set[int]() for _ in range(MAX_YOUNG_OBJECTS)]
    assert passes() > before
    collecting.cancel()
    await asyncio.wait([collecting])
    assert gc.get_threshold() == own


async def test_garbage_waits_for_one_interval_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "INTERVAL_SECONDS", 0.01)
    collecting = asyncio.create_task(collect_rarely())
    await asyncio.sleep(0)
    waiting, kept = left(), [set[int]() for _ in range(3_000)]
    await until(lambda: waiting() is None)
    assert kept
    assert gc.get_threshold()[0] == MAX_YOUNG_OBJECTS
    collecting.cancel()
