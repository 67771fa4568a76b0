from typing import Any

import pytest

from authz.engine.decide import BAD_REQUEST, INTERNAL_ERROR
from authz.engine.decision_record import MASK, DecisionRecord, Masking, record_of_unreadable
from authz.engine.recent_decisions import RecentDecisions, Wanted
from authz.policy.rule import Outcome
from authz.request.identity import CredentialKind, Identity
from authz.request.request import BadRequestReason
from common.redaction import REDACTED
from tests.support.checks import Headers, check_request
from tests.support.decisions import DENIED, NOW, decision, entry


def ring(*entries: DecisionRecord, capacity: int = 10) -> RecentDecisions:
    recent = RecentDecisions(capacity, Masking())
    for one in entries:
        recent.keep(one)
    return recent


def shown(recent: RecentDecisions, wanted: Wanted | None = None) -> list[dict[str, Any]]:
    """Return what a search finds."""
    return [one for one in recent.find(wanted or Wanted()) if one is not None]


def test_a_record_holds_the_request_and_the_decision() -> None:
    assert Masking().to_dict(entry(7, request_id="r-1")) == {
        "time": "2026-02-02T02:40:00.000+00:00",
        "decision_id": f"{7:024x}",
        "request_id": "r-1",
        "outcome": "allow",
        "reason": "allowed",
        "status": 200,
        "rule": "users",
        "policy_revision": "revision",
        "subject": "alice",
        "issuer": "https://idp.example",
        "credential": "jwt",
        "method": "GET",
        "host": "api.example.com",
        "path": "/users/1",
        "client": "192.0.2.1",
    }


def test_what_shadow_rules_would_have_answered_is_reported() -> None:
    kept = entry()._replace(shadow=DENIED)
    result = Masking().to_dict(kept)
    assert (result["shadow_outcome"], result["shadow_rule"]) == ("deny", "shut")


def test_the_query_is_never_kept() -> None:
    """RFC 6750 section 2.3: tokens travel there."""
    assert "secret" not in repr(entry(path="/users?access_token=secret"))


def test_a_segment_that_looks_like_a_token_is_redacted() -> None:
    assert Masking().to_dict(entry(path=f"/reset/{'a1' * 20}/now"))["path"] == f"/reset/{REDACTED}/now"


@pytest.mark.parametrize(
    ("segment", "shown"),
    [
        (f"{'A' * 40}%3D", REDACTED),
        (f"x;jsessionid={'0f' * 16}", f"x;{REDACTED}"),
        ("x;jsessionid=0f", f"x;jsessionid={REDACTED}"),
        (f"x#access_token={'a.' * 20}b", f"x#access_token={REDACTED}"),
        (f"x%3Ftoken%3D{'a' * 32}", REDACTED),
        (f"x%253Btoken%253D{'a' * 32}", REDACTED),
        ("%61" * 32, REDACTED),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
    ],
)
def test_no_spelling_keeps_a_token_from_being_redacted(segment: str, shown: str) -> None:
    assert Masking().to_dict(entry(path=f"/reset/{segment}"))["path"] == f"/reset/{shown}"


def test_user_information_is_redacted_as_in_the_access_log() -> None:
    """RFC 3986 section 3.2.1. Such a host is refused, and the refusal is logged."""
    message = check_request(host="user:hunter2@h", path="/go/https://user:hunter2@h/x?q")
    result = Masking().to_dict(
        record_of_unreadable(message, decision(verdict=BAD_REQUEST[BadRequestReason.HOST]), NOW)
    )
    assert (result["host"], result["path"]) == (f"{REDACTED}@h", f"/go/https://{REDACTED}@h/x")


def test_a_request_id_is_redacted_too() -> None:
    """A client may choose it."""
    assert Masking().to_dict(entry(request_id="token=hunter2"))["request_id"] == f"token={REDACTED}"


def test_segments_of_the_settings_are_masked() -> None:
    masking = Masking(segments=["[0-9]{6}"])
    assert masking.to_dict(entry(path="/people/123456/%31%32%33456/x"))["path"] == f"/people/{MASK}/{MASK}/x"


def test_what_only_looks_encoded_is_shown() -> None:
    assert Masking().to_dict(entry(path="/caf%C3%A9;v=1/x"))["path"] == "/caf%C3%A9;v=1/x"


def test_fields_are_left_out_and_masked_as_asked_for() -> None:
    result = Masking(omit=["client"], masked=["subject"]).to_dict(entry())
    assert "client" not in result
    assert result["subject"] == MASK


def test_a_field_that_no_account_has_cannot_be_masked() -> None:
    with pytest.raises(ValueError, match="a decision record has no field subjekt"):
        Masking(masked=["subjekt"])


def test_control_characters_do_not_reach_the_log() -> None:
    kept = entry(request_id="a\r\nb")
    assert Masking().to_dict(kept)["request_id"] == "a%0D%0Ab"


@pytest.mark.parametrize("subject", ["adm\nin", " admin"])
def test_a_subject_is_in_the_log_as_it_is_or_not_at_all(subject: str) -> None:
    kept = entry()._replace(identity=Identity(CredentialKind.JWT, subject))
    assert "subject" not in Masking().to_dict(kept)


def test_a_long_path_is_cut() -> None:
    assert len(entry(path=f"/{'a/' * 5000}").path) == 1_024


def test_a_request_that_could_not_be_read_has_an_account() -> None:
    message = check_request(host="a,b", path="/x?token=secret")
    verdict = BAD_REQUEST[BadRequestReason.HOST]
    result = Masking().to_dict(record_of_unreadable(message, decision(verdict=verdict), NOW))
    assert (result["host"], result["path"], result["reason"]) == ("a,b", "/x", "host_malformed")


@pytest.mark.parametrize("headers", [{"x-request-id": "r-1"}, [("x-request-id", "r-1")]])
def test_a_request_that_could_not_be_read_is_found_by_its_id(headers: Headers) -> None:
    message = check_request(path="no-slash", headers=headers)
    refused = decision(verdict=BAD_REQUEST[BadRequestReason.PATH_FORM])
    assert record_of_unreadable(message, refused, NOW).request_id == "r-1"


def test_the_newest_comes_first() -> None:
    found = shown(ring(entry(1), entry(2)))
    assert [int(one["decision_id"], 16) for one in found] == [2, 1]


def test_the_oldest_gives_way() -> None:
    found = shown(ring(*(entry(number) for number in range(5)), capacity=3))
    assert [int(one["decision_id"], 16) for one in found] == [4, 3, 2]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"decision_id": f"{1:024x}"}, [1]),
        ({"request_id": "r-2"}, [2]),
        ({"outcome": Outcome.DENY}, [2, 1]),
        ({"outcome": Outcome.DENY, "limit": 1}, [2]),
        ({"outcome": Outcome.ERROR}, [3]),
        ({"rule": "users"}, [0]),
        ({"subject": "alice"}, [3, 2, 1, 0]),
        ({"subject": "bob"}, []),
        ({"reason": "allowed"}, [0]),
        ({"outcome": Outcome.ALLOW, "request_id": "r-2"}, []),
    ],
)
def test_decisions_are_found(asked: dict[str, Any], numbers: list[int]) -> None:
    recent = ring(entry(0), entry(1, DENIED), entry(2, DENIED, request_id="r-2"), entry(3, INTERNAL_ERROR))
    found = shown(recent, Wanted(**asked))
    assert [int(one["decision_id"], 16) for one in found] == numbers


def test_a_search_of_many_lets_an_event_loop_run_in_between() -> None:
    recent = ring(*(entry(number) for number in range(5_000)), capacity=5_000)
    assert list(recent.find(Wanted(decision_id="none"))) == [None] * 10
    assert list(recent.question("none")) == [None] * 10
    found = list(recent.find(Wanted(limit=1_000)))
    assert found.count(None) == 99
    assert len(found) == 1_099


def test_decisions_are_made_ready_ten_at_a_time() -> None:
    found = list(ring(*map(entry, range(200)), capacity=200).find(Wanted(limit=200)))
    turns = "".join("." if one is None else "x" for one in found).rstrip(".").split(".")
    assert max(map(len, turns)) == 10
    assert sum(map(len, turns)) == 200
