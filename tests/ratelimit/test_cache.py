"""The cache of what was asked lately."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimit.cache import GenerationalCache


def test_remembers_the_latest_and_never_more_than_twice_its_size() -> None:
    recent: GenerationalCache[int, str] = GenerationalCache(10)
    for number in range(1_000):
        recent.put(number, str(number))
        assert len(recent) <= 20
    assert [recent.get(number) for number in range(990, 1_000)] == [str(n) for n in range(990, 1_000)]
    assert recent.get(0) is None


def test_what_is_asked_for_stays() -> None:
    recent: GenerationalCache[int, str] = GenerationalCache(10)
    recent.put(-1, "kept")
    for number in range(1_000):
        recent.put(number, str(number))
        assert recent.get(-1) == "kept"


def test_clear_forgets_all() -> None:
    recent: GenerationalCache[int, str] = GenerationalCache(1)
    recent.put(1, "old")
    recent.put(2, "young")
    recent.clear()
    assert (recent.get(1), recent.get(2), len(recent)) == (None, None, 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans())))
def test_never_tells_anything_but_the_last_value(steps: list[tuple[int, bool]]) -> None:
    recent: GenerationalCache[int, int] = GenerationalCache(5)
    truth: dict[int, int] = {}
    for value, (key, puts) in enumerate(steps, start=1):
        if puts:
            recent.put(key, value)
            truth[key] = value
        else:
            assert recent.get(key) in {None, truth.get(key)}
