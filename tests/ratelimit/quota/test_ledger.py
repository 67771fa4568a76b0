"""What a ledger may assign."""

import pytest

from ratelimit.quota.assignment import TokenQuota
from ratelimit.quota.ledger import Holding, Ledger
from ratelimit.quota.limit import QuotaLimit

LIMIT = QuotaLimit(rate=100.0, burst=1000)


def joined(ledger: Ledger, now: float) -> Holding:
    holding = Holding()
    ledger.join(holding, now)
    return holding


def test_what_an_envoy_had_until_its_report_is_not_refilled() -> None:
    ledger = Ledger(LIMIT, 0.0, seconds=15)
    first = joined(ledger, 0.0)
    ledger.assign([first], 0.0)
    assert ledger.rate_at(0.0) == 95
    ledger.spare = 0.0
    second = joined(ledger, 0.0)
    ledger.assign([first, second], 0.0)
    ledger.reported(first, 5.0, 5.0)
    assert first.rate_at(5.0) == 47.5
    assert ledger.spare == pytest.approx(5 * (100 - 95))


def test_a_report_that_came_before_the_assignment_does_not_say_that_it_is_applied() -> None:
    """In a crowd a report is looked at up to a second later, and an assignment may be sent in between."""
    ledger = Ledger(LIMIT, 0.0, seconds=15)
    first = joined(ledger, 0.0)
    ledger.assign([first], 0.0)
    joined(ledger, 5.0)
    ledger.assign(ledger.holdings, 5.0)
    ledger.reported(first, 4.5, 6.5)
    assert first.rate_at(6.5) == 95
    ledger.reported(first, 6.5, 6.5)
    assert first.rate_at(6.5) == 47.5


def test_a_bucket_that_moves_takes_along_what_it_may_still_have() -> None:
    """Its smaller assignment may be under way, while Envoy still has the larger one."""
    holding = Holding()
    holding.sent(TokenQuota(400, 60, 60), 0.0, 15)
    holding.sent(TokenQuota(10, 60, 60), 1.0, 15)
    ledger = Ledger(LIMIT, 1.0, seconds=15)
    ledger.join(holding, 1.0)
    ledger.advance(1.0)
    assert ledger.spare == 600
