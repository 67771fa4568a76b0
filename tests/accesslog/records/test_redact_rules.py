"""Rules drop, mask or hash values by name; lines and records say the same."""

import hashlib
import hmac
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import DIGITS, Action, RedactRule, RedactRules
from accesslog.records.sample import Sampling
from common.redaction import REDACTED
from sidecars.settings.accesslog import RedactSettings
from tests.support.entries import http_entry, message

KEY = b"0123456789abcdef"


def hashed(value: str) -> str:
    return f"hmac-{hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()[:DIGITS]}"


def lines(rules: list[RedactRule], entry: Any, allow: tuple[str, ...] = (), odd: bool = False) -> Any:
    """The one line of an entry; `odd` gives it bytes that are not UTF-8, so that protobuf reads it."""
    redaction = Redaction(allow_headers=allow, rules=RedactRules(rules, KEY))
    decoder = EntryDecoder(Rules(redaction, Sampling()), EntryCounters(), lambda: 1.0, lambda: 0.5)
    if odd:
        entry.request.user_agent = "UTF8"
    data = message(entry).SerializeToString()
    if odd:
        data = data.replace(b"UTF8", b"\xff" * 4)
    [line] = [orjson.loads(line) for batch in decoder.read(data) for line in batch.lines]
    return line


def entry(**more: Any) -> Any:
    return http_entry(
        path="/users/123456789/cards/4111?email=a%40b.c&page=2",
        request_headers={"x-user": "alice", "x-tenant": "acme", "cookie": "uid=alice; theme=dark"},
        response_headers={"x-user": "alice"},
        tags={"user": "alice"},
        metadata={
            "mine": {"user": "alice", "deep": {"user": ["a", 1]}},
            "envoy.filters.http.ratelimit": {"descriptors": [{"entries": ["user=alice", "route=x"]}]},
        },
        referer="https://app.example/?email=a&x=1",
        **more,
    )


@pytest.mark.parametrize("odd", [False, True], ids=["lines", "records"])
class TestActions:
    def test_headers(self, odd: bool) -> None:
        rules = [RedactRule(Action.HASH, headers=("X_User",)), RedactRule(Action.DROP, headers=("/x-t.*/",))]
        line = lines(rules, entry(), odd=odd)
        assert line["request_headers"] == {"cookie": REDACTED, "x-user": hashed("alice")}
        assert line["response_headers"] == {"x-user": hashed("alice")}
        assert {"request_headers.x-user", "request_headers.x-tenant"} <= set(line["redacted"])

    def test_a_map_whose_names_are_all_dropped_is_absent(self, odd: bool) -> None:
        line = lines([RedactRule(Action.DROP, headers=("x-user",), metadata=("user",))], entry(), odd=odd)
        assert "response_headers" not in line
        assert "tags" not in line
        assert line["metadata"] == {"mine": {"deep": {}}}

    def test_a_default_is_hashed_rather_than_masked(self, odd: bool) -> None:
        made = http_entry(request_headers={"authorization": "Bearer abc"})
        line = lines([RedactRule(Action.HASH, headers=("authorization",))], made, odd=odd)
        assert line["request_headers"] == {"authorization": hashed("Bearer abc")}

    def test_query_parameters(self, odd: bool) -> None:
        line = lines([RedactRule(Action.HASH, query_parameters=("email",))], entry(), odd=odd)
        assert line["query"] == f"email={hashed('a%40b.c')}&page=2"
        assert line["referer"] == f"https://app.example/?email={hashed('a')}&x=1"

    def test_query_parameters_are_dropped_with_their_names(self, odd: bool) -> None:
        line = lines([RedactRule(Action.DROP, query_parameters=("email",))], entry(), odd=odd)
        assert line["query"] == "page=2"

    def test_cookies_of_a_header_that_is_logged(self, odd: bool) -> None:
        rules = [RedactRule(Action.HASH, cookies=("uid",))]
        line = lines(rules, entry(), allow=("cookie",), odd=odd)
        assert line["request_headers"]["cookie"] == f"uid={hashed('alice')}; theme=dark"

    def test_a_rule_for_one_cookie_shows_no_other(self, odd: bool) -> None:
        line = lines([RedactRule(Action.HASH, cookies=("theme",))], entry(), odd=odd)
        assert line["request_headers"]["cookie"] == REDACTED

    def test_metadata_at_any_depth_tags_and_descriptors(self, odd: bool) -> None:
        rules = [RedactRule(Action.HASH, metadata=("user",), descriptors=("user",))]
        line = lines(rules, entry(), odd=odd)
        assert line["metadata"]["mine"] == {"user": hashed("alice"), "deep": {"user": hashed('["a",1]')}}
        assert line["tags"] == {"user": hashed("alice")}
        assert line["ratelimit_descriptors"] == [{"entries": [f"user={hashed('alice')}", "route=x"]}]

    @pytest.mark.parametrize(
        ("action", "path"),
        [
            (Action.MASK, f"/users/{REDACTED}/cards/{REDACTED}"),
            (Action.HASH, f"/users/{hashed('123456789')}/cards/{hashed('4111')}"),
            (Action.DROP, "/users/cards"),
        ],
    )
    def test_path_segments(self, action: Action, path: str, odd: bool) -> None:
        line = lines([RedactRule(action, path_segments=(r"\d{4,}",))], entry(), odd=odd)
        assert line["path"] == path
        assert "path.segment" in line["redacted"]

    def test_the_first_rule_decides(self, odd: bool) -> None:
        rules = [RedactRule(Action.MASK, headers=("x-user",)), RedactRule(Action.DROP, headers=("/.*/",))]
        assert lines(rules, entry(), odd=odd)["request_headers"] == {"x-user": REDACTED}


class TestSettings:
    def test_a_key_is_read_from_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_bytes(KEY + b"\n")
        settings = RedactSettings.model_validate(
            {"hash_key_file": str(file), "rules": [{"action": "hash", "headers": ["x-user"]}]}
        )
        record: dict[str, Any] = {"request_headers": {"x-user": "alice"}}
        settings.redaction().apply(record)
        assert record["request_headers"] == {"x-user": hashed("alice")}

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"rules": [{"action": "hash", "headers": ["x"]}]}, "hash_key_file"),
            ({"rules": [{"action": "mask", "headers": ["/(/"]}]}, "RE2"),
            ({"rules": [{"action": "mask", "headers": ["--"]}]}, "no letter or digit"),
            ({"hash_key_file": "/nonexistent/key"}, "/nonexistent/key"),
        ],
    )
    def test_what_cannot_work_is_refused(self, settings: dict[str, Any], text: str) -> None:
        with pytest.raises(ValidationError, match=text):
            RedactSettings.model_validate(settings)


def test_two_keys_make_two_hashes() -> None:
    record: dict[str, Any] = {"tags": {"user": "alice"}}
    Redaction(rules=RedactRules([RedactRule(Action.HASH, metadata=("user",))], b"x" * 16)).apply(record)
    assert record["tags"]["user"] != hashed("alice")
