"""Values of descriptors that look like secrets by their key are hashed wherever they are shown."""

import hmac
from hashlib import sha256

import pytest

from common.configfile import parse
from protos.lenient import mark
from ratelimit.config import compile_limits
from ratelimit.explain import explain_match
from ratelimit.listing import described
from ratelimit.metadata import explain
from ratelimit.request import Override
from ratelimit.rules import Options, Unit
from ratelimit.secret_values import SecretValues
from tests.support.limiter import Bench, of

SECRET = "s3cr3t-of-a-client"
HASH = "sha256:" + sha256(SECRET.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "key",
    [
        *(
            "api_token",
            "authorization",
            "Authorization",
            "session",
            "cookie",
            "x-api-key",
            "X_API_KEY",
            "apiKey",
        ),
        *(
            "user_token",
            "client_secret",
            "password",
            "session_id",
            "jwt",
            "access_token",
            "header.authorization",
        ),
        *("request_authorization", "app_session", "my-cookie", "proxy-authorization"),
    ],
)
def test_keys_that_are_named_like_secrets(key: str) -> None:
    assert SecretValues().shown(key, SECRET) == HASH


@pytest.mark.parametrize(
    "key",
    [
        *(
            "remote_address",
            "generic_key",
            "route",
            "path",
            "subject",
            "plan",
            "user",
            "tenant",
            "header_match",
        ),
        *("status_code", "country_code", "us_state", "page_token", "destination_cluster", "source_cluster"),
    ],
)
def test_other_keys_are_shown_as_they_are(key: str) -> None:
    assert SecretValues().shown(key, SECRET) == SECRET


def test_equal_values_have_equal_hashes_whatever_their_key_and_blanks() -> None:
    secrets = SecretValues()
    assert len({secrets.shown("cookie", SECRET), secrets.shown("session", f" {SECRET}\t")}) == 1
    assert secrets.shown("cookie", SECRET) != secrets.shown("cookie", SECRET + "x")
    assert secrets.shown("cookie", "") == ""


def test_bytes_that_are_not_utf_8_are_hashed_as_they_came() -> None:
    assert SecretValues().shown("cookie", mark(b"\xff\xfe")).endswith(sha256(b"\xff\xfe").hexdigest()[:16])


def test_names_can_be_added_and_allowed() -> None:
    secrets = SecretValues(keys=["Partner-Id"], allow=["state", "user_token"])
    assert secrets.shown("partner_id", SECRET) == HASH
    assert secrets.shown("state", "bavaria") == "bavaria"
    assert secrets.shown("user_token", SECRET) == SECRET
    assert secrets.shown("cookie", SECRET) == HASH


def test_with_a_key_a_hash_is_of_no_use_to_others() -> None:
    shown = SecretValues(hmac_key=b"k" * 16).shown("cookie", SECRET)
    assert shown == "hmac:" + hmac.digest(b"k" * 16, SECRET.encode(), "sha256").hex()[:16]


EVERY_PLACE = f"""
- key: api_key
  detailed_metric: true
  rate_limit: {{unit: minute, requests_per_unit: 5}}
- key: session
  value_to_metric: true
  descriptors: [{{key: route, rate_limit: {{unit: minute, requests_per_unit: 5}}}}]
- key: password
  value: {SECRET}
  rate_limit: {{unit: minute, requests_per_unit: 5}}
- {{key: token, value: "a*", rate_limit: {{unit: minute, requests_per_unit: 5}}}}
"""
ASKED = (
    of(("api_key", SECRET)),
    of(("session", SECRET), ("route", "login")),
    of(("password", SECRET)),
    of(("cookie", SECRET), override=Override(3, Unit.MINUTE)),
)


def test_neither_metadata_nor_metrics_hold_the_value() -> None:
    bench = Bench(EVERY_PLACE)
    for descriptor in ASKED:
        explained = str(explain(bench.ask(descriptor), full=True))
        assert SECRET not in explained
        assert f"{descriptor.entries[0][0]}={HASH}" in explained
    series = [sample.labels for metric in bench.stats.collect() for sample in metric.samples]
    assert SECRET not in str(series)
    for key in ("api_key", "session", "password", "cookie"):
        assert any(labels.get("key1") == f"{key}_{HASH}" for labels in series), key


def test_a_value_in_a_limits_file_is_shown_as_a_hash_too() -> None:
    """It is what the client sends, so it lets the reader of a log in."""
    limits = compile_limits([parse(f"domain: d\ndescriptors:{EVERY_PLACE}")], Options())
    lines = "\n".join(described(limits))
    assert SECRET not in lines
    assert f"d.password_{HASH}: " in lines
    assert "d.token_a*: " in lines
    missing = explain_match(limits.domains["d"], [("password", "guess")]).missing
    assert SECRET not in missing
    assert f"password_{HASH}" in missing


def test_a_value_that_is_hashed_still_matches_its_rule_and_counts_apart() -> None:
    bench = Bench(EVERY_PLACE)
    assert bench.ask(of(("password", SECRET)), hits=5).statuses[0].remaining == 0
    assert bench.ask(of(("password", SECRET))).over_limit
    assert bench.ask(of(("password", "other"))).statuses[0].rule is None
    bench.ask(of(("api_key", "one")), hits=5)
    assert not bench.ask(of(("api_key", "two"))).over_limit
