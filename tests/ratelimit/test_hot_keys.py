"""The keys asked for most often are found, in bounded memory."""

from collections import Counter
from random import Random
from typing import Any

import pytest

from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.hot_keys import MAX_STEP, WINDOW_SECONDS, HotKeys
from ratelimit.limiter import Limiter
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import Options
from ratelimit.stats import Stats
from ratelimit.stores.memory import MemoryStore

LIMITS = """
domain: edge
descriptors:
  - {key: client, rate_limit: {unit: hour, requests_per_unit: 3}}
  - {key: route, value: login, rate_limit: {unit: hour, requests_per_unit: 1000000}}
  - {key: api_key, rate_limit: {unit: hour, requests_per_unit: 3}}
  - {key: shadowed, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
"""


class Asked:
    """A limiter, and the keys that it counts."""

    def __init__(self, max_keys: int = 100, **options: Any) -> None:
        self.now = 0.0
        self.keys = HotKeys(max_keys, lambda: self.now, Random(7).random)
        store = MemoryStore(lambda: int(self.now * 1_000_000))
        limits = compile_limits([parse(LIMITS, "limits.yaml")], Options())
        self.limiter = Limiter(limits, store, store, Stats(), hot_keys=self.keys, **options)

    def ask(self, *entries: tuple[str, str], hits: int = 1) -> None:
        request = LimitRequest("edge", [Descriptor((entry,)) for entry in entries], hits)
        self.limiter.decide(self.limiter.plan(request))

    def hottest(self) -> dict[str, tuple[int, int]]:
        return {key.descriptor: (key.hits, key.limited) for key in self.keys.hottest(50)[0]}


def test_the_first_requests_are_counted_one_by_one() -> None:
    asked = Asked()
    for _ in range(5):
        asked.ask(("client", "a"))
    asked.ask(("client", "b"), ("route", "login"))
    assert asked.hottest() == {"client=a": (5, 2), "client=b": (1, 0), "route=login": (1, 0)}
    hottest, limited = asked.keys.hottest(1)
    assert [key.descriptor for key in hottest] == [key.descriptor for key in limited] == ["client=a"]
    assert (hottest[0].domain, hottest[0].rule, hottest[0].error) == ("edge", "edge.client", 0)


def test_shadowed_hits_are_beyond_the_limit_and_checks_are_no_hits() -> None:
    asked = Asked()
    asked.ask(("shadowed", "a"), hits=3)
    request = LimitRequest("edge", [Descriptor((("client", "a"),), 0)], 1)
    asked.limiter.decide(asked.limiter.plan(request))
    assert asked.hottest() == {"shadowed=a": (3, 3)}


def test_of_many_requests_some_count_for_all() -> None:
    asked = Asked()
    random = Random(1)
    for number in range(50_000):
        asked.ask(("client", "hot" if number % 4 == 0 else str(random.randrange(5_000))))
    hits, limited = asked.hottest()["client=hot"]
    assert 0.9 * 12_500 < hits < 1.1 * 12_500
    assert 0.9 * 12_500 < limited < 1.1 * 12_500
    assert asked.limiter.stats.requests < asked.keys.next_request <= 50_000 + 2 * MAX_STEP


def test_memory_is_bounded_and_what_is_frequent_is_kept() -> None:
    """Space-Saving: a count is never too small, and too large by at most `error`."""
    asked = Asked(max_keys=20)
    asked.keys._step = 1
    real: Counter[str] = Counter()
    random = Random(2)
    for _ in range(30_000):
        asked.keys.next_request = 0  # look at each
        asked.keys._step = 1
        client = str(int(random.paretovariate(0.9)))
        real[f"client={client}"] += 1
        asked.ask(("client", client))
        assert len(asked.keys._current) <= 40
    found = {key.descriptor: key for key in asked.keys.hottest(5)[0]}
    assert set(found) == {name for name, _ in real.most_common(5)}


def test_what_was_hot_before_two_windows_is_forgotten() -> None:
    asked = Asked()
    asked.ask(("client", "a"))
    asked.now = WINDOW_SECONDS
    asked.ask(("client", "b"))
    assert set(asked.hottest()) == {"client=a", "client=b"}
    asked.now = 2 * WINDOW_SECONDS
    assert set(asked.hottest()) == {"client=b"}
    asked.now = 9 * WINDOW_SECONDS
    assert asked.hottest() == {}


@pytest.mark.parametrize(
    ("entry", "shown", "exact"),
    [
        (("client", "192.0.2.1"), "client=192.0.2.1", True),
        (("api_key", "hunter2"), "api_key=sha256:f52fbd32b2b3b86f", False),
        (("client", "a,b=c"), "client=a,b=c", False),
        (("client", "x" * 600), "client=" + "x" * 505, False),
    ],
)
def test_a_key_is_shown_without_secrets_and_cut(entry: tuple[str, str], shown: str, *, exact: bool) -> None:
    asked = Asked()
    asked.ask(entry)
    [key] = asked.keys.hottest(9)[0]
    assert (key.descriptor, key.exact) == (shown, exact)


def test_none_are_counted_with_zero() -> None:
    asked = Asked(max_keys=0)
    asked.ask(("client", "a"))
    assert asked.hottest() == {}
