import pytest

from ratelimit.quota.limit import Blanket, QuotaLimit, limit_of, match_bucket
from tests.support.quota_simulation import DOMAIN, limits_of

MINUTE = {"unit": "minute", "requests_per_unit": 60}
LIMITS = limits_of(
    {"key": "route", "value": "login", "rate_limit": MINUTE},
    {"key": "path", "value": "/reports/*", "share_threshold": True, "rate_limit": MINUTE},
    {"key": "zone", "descriptors": [{"key": "address", "normalise": "address", "rate_limit": MINUTE}]},
    {"key": "address", "descriptors": [{"key": "plan", "rate_limit": MINUTE}]},
)


@pytest.mark.parametrize(
    ("bucket_id", "counted"),
    [
        ({"route": "login"}, [("route", "login")]),
        ({"route": " login\t"}, [("route", "login")]),
        ({"route": "logout"}, None),
        ({"route": "login", "address": "192.0.2.1"}, None),
        ({"path": "/reports/a"}, [("path", "/reports/*")]),
        # The order is that of the path, wherever the keys are in the alphabet.
        ({"address": "2001:db8::7", "zone": "z"}, [("zone", "z"), ("address", "2001:db8::/64")]),
        ({"plan": "free", "address": "x"}, [("address", "x"), ("plan", "free")]),
        ({"zone": "z"}, None),
        ({}, None),
    ],
)
def test_a_bucket_matches_the_limit_whose_path_has_exactly_its_keys(
    bucket_id: dict[str, str], counted: list[tuple[str, str]] | None
) -> None:
    match = match_bucket(LIMITS.domains[DOMAIN], bucket_id)
    assert (None if match is None else list(match.counted)) == counted


@pytest.mark.parametrize(
    ("rate_limit", "limit"),
    [
        ({"unit": "minute", "requests_per_unit": 60}, QuotaLimit(1.0, 60)),
        ({"unit": "second", "requests_per_unit": 100, "burst": 20}, QuotaLimit(100.0, 20)),
        ({"period": "30s", "requests_per_unit": 60, "algorithm": "fixed_window"}, QuotaLimit(2.0, 60)),
        ({"period": "30s", "requests_per_unit": 60, "algorithm": "sliding_window"}, QuotaLimit(2.0, 60)),
        ({"unit": "second", "requests_per_unit": 100, "cost": 5}, QuotaLimit(20.0, 20)),
        ({"period": "month", "requests_per_unit": 31}, QuotaLimit(1 / 86_400, 31)),
        ({"unlimited": True}, Blanket.ALLOW_ALL),
        ({"unit": "second", "requests_per_unit": 0}, Blanket.DENY_ALL),
        ({"unit": "second", "requests_per_unit": 2, "cost": 5}, Blanket.DENY_ALL),
    ],
)
def test_every_algorithm_is_a_rate_and_a_burst(
    rate_limit: dict[str, object], limit: QuotaLimit | Blanket
) -> None:
    (rule,) = limits_of({"key": "route", "rate_limit": rate_limit}).rules
    assert limit_of(rule, 1) == limit


def test_sidecars_share_a_limit_equally_with_the_burst_rounded_up() -> None:
    (rule,) = limits_of({"key": "route", "rate_limit": {"unit": "second", "requests_per_unit": 100}}).rules
    assert limit_of(rule, 3) == QuotaLimit(100 / 3, 34)


def test_limits_that_cannot_be_assigned_allow_all() -> None:
    slots = {"key": "request_id", "rate_limit": {"concurrency": 5}}
    shadow = {"key": "route", "shadow_mode": True, "rate_limit": MINUTE}
    for rule in limits_of(slots, shadow).rules:
        assert limit_of(rule, 1) is Blanket.ALLOW_ALL
