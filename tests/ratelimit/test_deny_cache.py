"""The deny cache: refusals without the store, and never one that the store would not give."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.buckets import SECOND_US, Taken
from ratelimit.decision import LimitDecision
from ratelimit.request import Descriptor, Override
from ratelimit.rules import Algorithm, Options, Unit
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.store import Failure, StoreError, Take
from tests.support.limiter import FIVE_EACH, A, B, Bench, of

WINDOWS = Options(algorithm=Algorithm.FIXED_WINDOW)
MIXED = """
    - {key: a, rate_limit: {unit: minute, requests_per_unit: 5}}
    - {key: b, rate_limit: {unit: minute, requests_per_unit: 7, algorithm: fixed_window}}
    - {key: debt, rate_limit: {unit: minute, requests_per_unit: 5, charge_rejected: true}}
    - {key: shadow, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
    - {key: quota, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
    - key: calm
      rate_limit: {unit: minute, requests_per_unit: 5, algorithm: fixed_window, charge_rejected: false}
"""
KEYS = ["a", "b", "debt", "shadow", "quota", "calm"]


class SharedStore:
    """A store that is asked over a wire: answers later, counts the calls, and can go away."""

    def __init__(self) -> None:
        self.calls = 0
        self.away = False
        self.memory: MemoryStore | None = None

    async def take(self, takes: Sequence[Take], budget_seconds: float | None = None, /) -> list[Taken]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreError(Failure.TIMEOUT)
        assert self.memory is not None
        return self.memory.take(takes)

    async def close(self) -> None: ...


class Asked:
    """A limiter with a deny cache over a shared store."""

    def __init__(self, rules: str, options: Options | None = None) -> None:
        self.store = SharedStore()
        self.bench = Bench(rules, options, store=self.store, deny_cache=True)
        self.store.memory = MemoryStore(lambda: self.bench.now_us)

    async def ask(self, *descriptors: Descriptor, hits: int = 0) -> LimitDecision:
        decision = self.bench.ask_later(*descriptors, hits=hits)
        return decision if isinstance(decision, LimitDecision) else await decision


BOTH = pytest.mark.parametrize("options", [Options(), WINDOWS], ids=["token_bucket", "fixed_window"])


@BOTH
async def test_a_refusal_is_repeated_without_asking_the_store(options: Options) -> None:
    asked = Asked(FIVE_EACH, options)
    await asked.ask(A, hits=5)
    refusals = [await asked.ask(A) for _ in range(10)]
    assert all(refusal.over_limit for refusal in refusals)
    assert asked.store.calls == 2
    counts = asked.bench.stats.of_rule(("d", "a"))
    assert (counts.over_limit, counts.over_limit_with_local_cache, counts.total_hits) == (10, 9, 15)


@BOTH
async def test_it_ends_when_the_request_could_pass(options: Options) -> None:
    asked = Asked(FIVE_EACH, options)
    await asked.ask(A, hits=5)
    wait_seconds = (await asked.ask(A)).retry_after_seconds
    asked.bench.now_us += (wait_seconds - 1) * SECOND_US
    late = await asked.ask(A)
    assert (late.over_limit, late.retry_after_seconds, asked.store.calls) == (True, 1, 2)
    asked.bench.now_us += SECOND_US
    assert not (await asked.ask(A)).over_limit


async def test_fewer_hits_than_were_refused_ask_the_store() -> None:
    asked = Asked(FIVE_EACH)
    await asked.ask(A, hits=3)
    assert (await asked.ask(A, hits=3)).over_limit
    assert not (await asked.ask(A, hits=2)).over_limit


async def test_more_hits_keep_the_refusal_of_fewer() -> None:
    asked = Asked(FIVE_EACH)
    await asked.ask(A, hits=5)
    for hits in (1, 4, 2):
        assert (await asked.ask(A, hits=hits)).over_limit
    assert asked.store.calls == 2


async def test_a_refund_ends_it() -> None:
    asked = Asked(FIVE_EACH)
    await asked.ask(A, hits=5)
    await asked.ask(A)
    await asked.ask(of(("a", "1"), hits=2, refund=True))
    assert not (await asked.ask(A)).over_limit


async def test_a_reload_ends_it_and_what_was_asked_before_is_not_kept() -> None:
    asked = Asked(FIVE_EACH)
    await asked.ask(A, hits=5)
    pending = asyncio.ensure_future(asked.ask(A))
    await asyncio.sleep(0)
    raised = FIVE_EACH.replace("requests_per_unit: 5", "requests_per_unit: 50")
    asked.bench.limiter.use(asked.bench.compiled(raised))
    assert (await pending).over_limit
    asked.bench.now_us += 2 * SECOND_US
    assert not (await asked.ask(A)).over_limit


async def test_a_definite_refusal_wins_while_the_store_is_away() -> None:
    asked = Asked(FIVE_EACH, Options(on_failure=Options().on_failure))
    await asked.ask(A, hits=5)
    await asked.ask(A)
    asked.store.away = True
    decision = await asked.ask(A)
    assert (decision.over_limit, decision.failure) == (True, "")
    assert (await asked.ask(B)).failure == "store_timeout"


async def test_the_other_limits_of_a_known_refusal_are_not_charged() -> None:
    asked = Asked(FIVE_EACH)
    await asked.ask(A, hits=5)
    await asked.ask(A)
    decision = await asked.ask(A, B)
    assert decision.over_limit
    assert [status.current is None for status in decision.statuses] == [False, True]
    assert asked.store.calls == 2
    assert (await asked.ask(B, hits=5)).over_limit is False


async def test_fixed_windows_next_to_a_known_refusal_are_charged() -> None:
    asked = Asked(FIVE_EACH, WINDOWS)
    await asked.ask(A, hits=6)
    for _ in range(5):
        assert (await asked.ask(A, B)).over_limit
    assert (await asked.ask(B)).over_limit


async def test_a_bucket_in_debt_is_always_charged() -> None:
    asked = Asked(MIXED)
    debt = of(("debt", "1"))
    for _ in range(3):
        await asked.ask(debt, hits=4)
    assert asked.store.calls == 3


async def test_another_limit_of_the_same_window_is_another_matter() -> None:
    asked = Asked(FIVE_EACH)

    def override(limit: int) -> Descriptor:
        return of(("a", "1"), override=Override(limit, Unit.MINUTE))

    await asked.ask(override(5), hits=5)
    assert (await asked.ask(override(5))).over_limit
    assert not (await asked.ask(override(50))).over_limit


descriptors = st.lists(
    st.builds(
        lambda key, hits, refund: of((key, "1"), hits=hits, refund=refund),
        st.sampled_from(KEYS),
        st.integers(0, 6),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=3,
)


@given(st.lists(st.tuples(descriptors, st.integers(0, 20 * SECOND_US)), min_size=1, max_size=25))
def test_requests_pass_just_as_without_it(steps: list[tuple[list[Descriptor], int]]) -> None:
    """Any rules, hits, refunds and steps of time."""
    asked, plain = Asked(MIXED), Bench(MIXED)

    async def run() -> None:
        for asks, passed_us in steps:
            plain.now_us += passed_us
            asked.bench.now_us = plain.now_us
            expected = plain.ask(*asks)
            found = await asked.ask(*asks)
            assert found.over_limit == expected.over_limit
            for one, other in zip(found.statuses, expected.statuses, strict=True):
                assert one.current is None or one.over_limit == other.over_limit

    asyncio.run(run())
