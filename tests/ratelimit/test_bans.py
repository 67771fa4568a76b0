"""Keys that are refused again and again are banned for a while."""

import re
from collections.abc import Sequence

import pytest

from common.buckets import SECOND_US
from common.configfile import ConfigError
from ratelimit.bans import Ban, Bans
from ratelimit.decision import LimitDecision
from ratelimit.listing import limit_text, limits_data
from ratelimit.metadata import explain
from ratelimit.request import LimitRequest
from ratelimit.rules import LimitRule
from ratelimit.stores.detached import DetachedTakes
from tests.support.limiter import NOW, AwayStore, Bench, LaterStore, of

LIMITS = """
    - key: a
      rate_limit: {unit: day, requests_per_unit: 2, ban: {after: 3, within: 1m, for: 10m}}
    - {key: b, rate_limit: {unit: day, requests_per_unit: 100}}
"""
A, B = of(("a", "1")), of(("b", "1"))


class Banning(Bench):
    """A limiter that bans by the clock of the test."""

    def __init__(self, limits: str = LIMITS, *, most: int = 10, **more: object) -> None:
        super().__init__(limits, **more)  # type: ignore[arg-type]
        takes = DetachedTakes(self.limiter.store, self.memory)
        self.limiter.bans = Bans(lambda: self.now_us / SECOND_US, takes, most)

    @property
    def bans(self) -> Bans:
        return self.limiter.bans

    @property
    def rules(self) -> Sequence[LimitRule]:
        return self.limiter.limits.rules

    def refusals(self, count: int, value: str = "1") -> list[LimitDecision]:
        return [self.ask(of(("a", value))) for _ in range(count)]


def banned(*decisions: LimitDecision) -> list[bool]:
    return [decision.failure == "banned" for decision in decisions]


def test_as_many_rejections_as_the_rule_says_ban_the_key_and_no_other() -> None:
    bench = Banning()
    found = bench.refusals(7)
    assert [one.over_limit for one in found] == [False, False, True, True, True, True, True]
    assert banned(*found) == [False] * 5 + [True, True]
    assert not bench.ask(of(("a", "2"))).over_limit


def test_a_ban_says_how_long_it_lasts_and_ends() -> None:
    bench = Banning()
    bench.refusals(5)
    bench.now_us += 200 * SECOND_US
    found = bench.ask(A)
    assert (found.over_limit, found.retry_after_seconds) == (True, 400)
    assert explain(found, full=False)["reason"] == "banned"
    bench.now_us += 400 * SECOND_US
    found = bench.ask(A)
    assert (found.over_limit, found.failure) == (True, "")
    bench.now_us += 86_400 * SECOND_US
    assert not bench.ask(A).over_limit


def test_a_banned_request_charges_nothing() -> None:
    bench = Banning()
    bench.refusals(5)
    for _ in range(4):
        assert bench.ask(A, B).over_limit
    assert bench.ask(B).statuses[0].remaining == 99


def test_rejections_that_are_far_apart_ban_no_one() -> None:
    bench = Banning()
    bench.refusals(2)
    for _ in range(20):
        assert banned(*bench.refusals(1)) == [False]
        bench.now_us += 61 * SECOND_US


def test_only_rejections_by_the_rule_itself_count() -> None:
    bench = Banning(LIMITS.replace("requests_per_unit: 100", "requests_per_unit: 0"))
    for _ in range(9):
        assert bench.ask(A, B).over_limit
    assert not bench.bans.active


def test_shadow_mode_bans_no_one() -> None:
    bench = Banning(LIMITS.replace("- key: a", "- key: a\n      shadow_mode: true"))
    assert not any(one.over_limit for one in bench.refusals(9))
    assert not bench.bans.active


def test_global_shadow_mode_lets_the_banned_pass() -> None:
    bench = Banning(shadow_mode=True)
    bench.bans.add(
        Ban(bench.limiter.plan(LimitRequest("d", [A])).takes[0].key, NOW / SECOND_US + 9, 0.0, "", "")
    )
    assert not bench.ask(A).over_limit


def test_what_is_given_back_reaches_the_store_of_a_banned_key() -> None:
    bench = Banning()
    bench.refusals(5)
    assert not bench.ask(of(("a", "1"), hits=2, refund=True)).over_limit


def test_what_a_refused_request_gives_back_arrives_although_another_of_its_keys_is_banned() -> None:
    bench = Banning(LIMITS + "    - {key: id, rate_limit: {concurrency: 1}}")
    assert not bench.ask(of(("id", "1"))).over_limit
    bench.ask(B)
    bench.refusals(5)
    found = bench.ask(A, of(("id", "1"), hits=1, refund=True), of(("b", "1"), hits=1, refund=True))
    assert banned(found) == [True]
    assert not bench.ask(of(("id", "2"))).over_limit
    assert bench.ask(B).statuses[0].remaining == 99


def test_a_key_whose_ban_has_ended_is_banned_again() -> None:
    bench = Banning()
    assert banned(*bench.refusals(6))[-1]
    bench.now_us += 600 * SECOND_US
    assert banned(*bench.refusals(4)) == [False] * 3 + [True]
    assert bench.bans.counts.imposed == {("d", "a"): 2}


def test_a_clock_that_is_set_back_makes_no_ban_last_longer() -> None:
    bench = Banning()
    bench.refusals(6)
    bench.now_us -= 300 * SECOND_US
    assert banned(bench.ask(A)) == [True]
    bench.now_us -= SECOND_US
    assert banned(bench.ask(A)) == [False]
    assert bench.bans.listed() == []


def test_an_outage_of_the_store_bans_no_one() -> None:
    limits = LIMITS.replace("ban:", "on_failure: closed, ban:")
    bench = Banning(limits, store=AwayStore())
    assert all(one.over_limit for one in bench.refusals(9))
    assert not bench.bans.active


def test_while_the_store_is_away_rejections_count_in_this_process() -> None:
    bench = Banning(store=AwayStore())
    assert banned(*bench.refusals(7)) == [False] * 5 + [True, True]


async def test_a_store_that_answers_later_bans_too() -> None:
    bench = Banning()
    later = LaterStore(bench.memory)
    bench.limiter.bans = Bans(lambda: bench.now_us / SECOND_US, DetachedTakes(later, bench.memory))
    bench.refusals(5)
    takes = bench.limiter.bans._ask
    assert isinstance(takes, DetachedTakes)
    for task in list(takes._waiting):
        await task
    assert banned(*bench.refusals(1)) == [True]


async def test_more_than_may_wait_are_counted_in_this_process() -> None:
    bench = Banning()
    later = LaterStore(bench.memory)
    bench.limiter.bans = Bans(lambda: bench.now_us / SECOND_US, DetachedTakes(later, bench.memory, 0))
    assert banned(*bench.refusals(6)) == [False] * 5 + [True]


def test_lifting_ends_the_ban_and_forgets_what_was_used_and_the_rejections() -> None:
    bench = Banning()
    bench.refusals(6)
    (ban,) = bench.bans.listed()
    assert (ban.descriptor, ban.rule, ban.until - ban.since) == ("a=1", "d.a", 600)
    assert bench.bans.lift(["a=2", "nonsense"], bench.rules) == []
    assert bench.bans.lift([ban.id], bench.rules) == [ban]
    found = bench.refusals(6)
    assert [one.over_limit for one in found] == [False, False, True, True, True, True]
    assert banned(*found) == [False] * 5 + [True]
    assert [one.descriptor for one in bench.bans.lift(["a=1"], bench.rules)] == ["a=1"]


def test_lifting_a_minute_later_forgets_the_rejections_of_that_minute() -> None:
    """They are in the window before: if they went on to count, one rejection would ban the key again."""
    bench = Banning()
    bench.refusals(6)
    bench.now_us += 61 * SECOND_US
    assert len(bench.bans.lift(["a=1"], bench.rules)) == 1
    found = bench.refusals(6)
    assert [one.over_limit for one in found] == [False, False, True, True, True, True]
    assert banned(*found) == [False] * 5 + [True]


def test_there_are_never_more_bans_than_the_setting_says() -> None:
    bench = Banning(most=3)
    for number in range(5):
        bench.refusals(5, value=str(number))
    assert [ban.descriptor for ban in bench.bans.active.values()] == ["a=2", "a=3", "a=4"]
    assert bench.bans.counts.evicted == 2


def test_bans_that_have_ended_make_room_first() -> None:
    bench = Banning(most=2)
    bench.refusals(5, value="1")
    bench.now_us += 601 * SECOND_US
    bench.refusals(5, value="2")
    bench.refusals(5, value="3")
    assert bench.bans.counts.evicted == 0
    assert [ban.descriptor for ban in bench.bans.listed()] == ["a=2", "a=3"]


def test_a_secret_is_shown_as_its_hash() -> None:
    bench = Banning(LIMITS.replace("key: a", "key: api_key"))
    for _ in range(5):
        bench.ask(of(("api_key", "hunter2")))
    (ban,) = bench.bans.listed()
    assert re.fullmatch("api_key=sha256:[0-9a-f]{16}", ban.descriptor)


def test_bad_credentials_ban_a_client_by_a_budget_that_authz_charges() -> None:
    """Envoy checks with 0 hits before authz, and charges 1 after it for credentials that were bad."""
    limits = "- {key: bad, rate_limit: {unit: minute, requests_per_unit: 3, ban: {after: 1, for: 1h}}}"
    bench = Banning(limits)
    check, charge = of(("bad", "1"), hits=0), of(("bad", "1"), hits=1)
    for _ in range(4):
        assert not bench.ask(check).over_limit
        bench.ask(charge)
    assert bench.ask(check).over_limit
    bench.now_us += 120 * SECOND_US
    assert banned(bench.ask(check)) == [True]


def test_the_rule_as_data_has_the_ban_and_the_priority() -> None:
    bench = Banning(LIMITS.replace("ban:", "priority: high, ban:"))
    first, second = limits_data(bench.limiter.limits)["rules"]
    assert first["ban"] == {"after": 3, "within_seconds": 60, "for_seconds": 600}
    assert (first["priority"], second["ban"], second["priority"]) == ("high", None, "normal")


def test_the_ban_of_a_concurrency_limit_is_named_without_the_id_of_a_request() -> None:
    bench = Banning("""
    - key: subject
      descriptors: [{key: id, rate_limit: {concurrency: 1, ban: {after: 1, for: 1m}}}]
    """)
    found = [bench.ask(of(("subject", "alice"), ("id", f"{number}"))) for number in range(3)]
    assert banned(*found) == [False, False, True]
    assert [one.descriptor for one in bench.bans.lift(["subject=alice"], bench.rules)] == ["subject=alice"]


def test_the_listing_tells_of_the_ban() -> None:
    rule = Bench(LIMITS).limiter.limits.rules[0]
    assert limit_text(rule) == "2 per day, token_bucket, ban 600s after 3 rejections, on_failure local"


@pytest.mark.parametrize(
    ("ban", "problem"),
    [
        ("{within: 1m, for: 1m}", "ban needs after"),
        ("{after: 1}", "ban needs for"),
        ("{after: 0, for: 1m}", "expected 1 to 1000000, found 0"),
        ("{after: 1, for: 8d}", "expected a time from 1s to 604800s"),
        ("{after: 1, within: 2d, for: 1d}", "expected a time from 1s to 86400s"),
        ("{after: 1, for: 1m, to: 3}", "unknown key 'to'"),
        ("10m", "expected a map"),
    ],
)
def test_what_is_wrong_is_said(ban: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        Bench(f"- {{key: a, rate_limit: {{unit: day, requests_per_unit: 1, ban: {ban}}}}}")


def test_an_unlimited_rule_has_no_ban() -> None:
    with pytest.raises(ConfigError, match="should not specify ban when unlimited"):
        Bench("- {key: a, rate_limit: {unlimited: true, ban: {after: 1, for: 1m}}}")
