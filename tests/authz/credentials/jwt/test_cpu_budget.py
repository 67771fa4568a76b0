"""Verification may not hold the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authz.credentials import Credentials
from authz.credentials.jwt.cpu_budget import MAX_WAITING, CpuBudget, OverloadedError
from authz.request.identity import Identity, Refusal, RefusalReason
from tests.support.credentials import CredentialsHarness, reason_of
from tests.support.signing import bearer, jwk, key_set, private_key, token
from tests.support.waiting import WAIT_SECONDS, until

Start = Callable[[Credentials], Awaitable[Credentials]]


class Work:
    """Pieces of work that take a second each on a clock of their own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.done: list[int] = []

    def clock(self) -> float:
        return self.seconds

    def piece(self, number: int) -> Any:
        def work() -> int:
            self.seconds += 1
            self.done.append(number)
            return number

        return work


async def test_a_turn_does_as_much_as_its_budget_and_the_rest_in_order_later() -> None:
    work = Work()
    turns: CpuBudget[int] = CpuBudget(work.clock, budget_seconds=10)
    results = [turns.do(work.piece(number)) for number in range(35)]
    assert [result for result in results if isinstance(result, int)] == work.done == list(range(10))
    amounts = []
    while len(turns):
        before = len(work.done)
        await asyncio.sleep(0)
        amounts.append(len(work.done) - before)
    assert work.done == list(range(35))
    assert max(amounts) <= 10
    assert [await result for result in results if not isinstance(result, int)] == list(range(10, 35))


async def test_the_next_turn_begins_with_a_whole_budget() -> None:
    work = Work()
    turns: CpuBudget[int] = CpuBudget(work.clock, budget_seconds=10)
    for turn in range(3):
        assert all(isinstance(turns.do(work.piece(turn)), int) for _ in range(10))
        await asyncio.sleep(0)


async def test_work_that_no_one_waits_for_any_more_is_not_done() -> None:
    work = Work()
    turns: CpuBudget[int] = CpuBudget(work.clock, budget_seconds=1)
    turns.do(work.piece(0))
    gone, stays = turns.do(work.piece(1)), turns.do(work.piece(2))
    assert isinstance(gone, asyncio.Future)
    assert isinstance(stays, asyncio.Future)
    gone.cancel()
    assert await asyncio.wait_for(stays, WAIT_SECONDS) == 2
    assert work.done == [0, 2]


async def test_an_error_belongs_to_the_one_who_waits_for_it() -> None:
    work = Work()
    turns: CpuBudget[int] = CpuBudget(work.clock, budget_seconds=1)
    turns.do(work.piece(0))

    def fails() -> int:
        raise KeyError("x")

    failed, fine = turns.do(fails), turns.do(work.piece(1))
    assert isinstance(failed, asyncio.Future)
    assert isinstance(fine, asyncio.Future)
    with pytest.raises(KeyError):
        await failed
    assert await fine == 1


async def test_the_line_has_a_bound() -> None:
    work = Work()
    turns: CpuBudget[int] = CpuBudget(work.clock, budget_seconds=1)
    turns.do(work.piece(0))
    waiting = [turns.do(work.piece(1)) for _ in range(MAX_WAITING)]
    with pytest.raises(OverloadedError):
        turns.do(work.piece(2))
    for future in waiting:
        assert isinstance(future, asyncio.Future)
        future.cancel()


async def test_known_tokens_go_past_a_burst_of_new_ones(harness: CredentialsHarness) -> None:
    """A thousand cold tokens may not delay cached ones."""
    credentials = harness.credentials({"issuers": [harness.issuer()], "lookup_timeout_seconds": 30})
    known = token()
    harness.outcome(credentials, bearer(known))
    turns = credentials._serving.tokens.cpu_budget
    turns._clock = iter(number / 1000 for number in range(100_000)).__next__  # each piece takes 1 ms
    cold = [bearer(token(jti=str(number))) for number in range(50)]
    pending = [credentials.authenticate(one, harness.clock.wall_seconds) for one in cold]
    assert sum(isinstance(one, Identity) for one in pending) == 1
    assert isinstance(harness.outcome(credentials, bearer(known)), Identity)
    later = [asyncio.ensure_future(one) for one in pending if not isinstance(one, Identity)]  # type: ignore[arg-type]
    found = await asyncio.wait_for(asyncio.gather(*later), WAIT_SECONDS)
    assert all(isinstance(one, Identity) for one in found)


async def test_a_request_that_waits_too_long_is_refused_with_this_reason(harness: CredentialsHarness) -> None:
    credentials = harness.credentials({"issuers": [harness.issuer()], "lookup_timeout_seconds": 0.01})
    turns = credentials._serving.tokens.cpu_budget
    turns._spent_seconds, turns._turn_booked = 1.0, True  # a turn that never ends
    outcome = await harness.awaited(credentials, bearer(token()))
    assert reason_of(outcome) == RefusalReason.OVERLOADED


async def test_one_bound_holds_for_the_line_the_key_and_the_line_again(
    harness: CredentialsHarness, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits longer than `lookup_timeout_seconds` in all."""
    harness.key_server.document = key_set(jwk(private_key("ES256"), "old"))
    issuer = harness.issuer(jwks={"url": "https://idp.example.com/keys"})
    credentials = await started(harness.credentials({"issuers": [issuer], "lookup_timeout_seconds": 30}))
    harness.key_server.gate.clear()
    turns = credentials._serving.tokens.cpu_budget
    turns._clock = iter(number / 1000 for number in range(100_000)).__next__  # each piece takes 1 ms
    real, bounds = asyncio.timeout, list[asyncio.Timeout]()

    def timeout(seconds: float) -> asyncio.Timeout:
        bound = real(seconds)
        if seconds == 30:
            bounds.append(bound)
        return bound

    monkeypatch.setattr("asyncio.timeout", timeout)
    asks = [bearer(token(kid=kid)) for kid in ("old", "new")]
    first, pending = (credentials.authenticate(one, harness.clock.wall_seconds) for one in asks)
    assert isinstance(first, Identity), "after which the turn is over, and the second has to wait"
    assert not isinstance(pending, Identity | Refusal | None)
    waits = asyncio.ensure_future(pending)
    await until(lambda: harness.key_server.calls == 2)
    bounds[0].reschedule(asyncio.get_running_loop().time())
    assert reason_of(await waits) == RefusalReason.KEYS_UNAVAILABLE
    harness.key_server.gate.set()


async def test_bad_tokens_in_line_cost_nothing_once_their_address_is_throttled(
    harness: CredentialsHarness,
) -> None:
    """After N failures the answer is 429 without verification work, also for what waits already."""
    limits = {"address_failures": 3, "per_seconds": 60}
    credentials = harness.credentials(
        {"issuers": [harness.issuer()], "lookup_timeout_seconds": 30, "throttle": limits}
    )
    verified = 0

    def clock() -> float:
        nonlocal verified
        verified += 1
        return verified / 1000  # asked before and after each piece, which so takes 1 ms

    credentials._serving.tokens.cpu_budget._clock = clock
    harness.outcome(credentials, bearer(token(), "198.51.100.7"))
    forged = [
        bearer(token(key=private_key("ES256", 1), jti=str(number)), "192.0.2.1") for number in range(50)
    ]
    pending = [credentials.authenticate(one, harness.clock.wall_seconds) for one in forged]
    later = [asyncio.ensure_future(one) for one in pending]  # type: ignore[arg-type]
    found = [reason_of(one) for one in await asyncio.wait_for(asyncio.gather(*later), WAIT_SECONDS)]
    # Those of the turns that end before the failures of the first are heard of.
    assert 3 <= found.count(RefusalReason.TOKEN_SIGNATURE) <= 5
    assert found.count(RefusalReason.THROTTLED) == 50 - found.count(RefusalReason.TOKEN_SIGNATURE)
