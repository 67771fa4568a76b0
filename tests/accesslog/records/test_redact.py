from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accesslog.records.redact import Redaction
from accesslog.wire.record import http_record
from common.redaction import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, LONGEST_TEXT, REDACTED
from ratelimit.secret_values import SecretValues
from tests.support.entries import ORIGIN, http_entry

SECRET = "s3cr3t"


def redacted(redaction: Redaction | None = None, **entry: Any) -> dict[str, Any]:
    record = http_record(http_entry(**entry), ORIGIN, 0)
    (redaction or Redaction()).apply(record)
    return record


class TestHeaders:
    @pytest.mark.parametrize("name", sorted(DEFAULT_HEADERS))
    @pytest.mark.parametrize("where", ["request_headers", "response_headers", "response_trailers", "tags"])
    def test_that_hold_credentials_are_redacted_by_default(self, name: str, where: str) -> None:
        entry: dict[str, Any] = {where: {name: SECRET, "accept": "*/*"}}
        record = redacted(**entry)
        assert record[where] == {name: REDACTED, "accept": "*/*"}
        assert record["redacted"] == [f"{where}.{name}"]

    def test_the_defaults_are_those_of_the_issue(self) -> None:
        expected = {"authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"}
        assert expected <= DEFAULT_HEADERS

    @pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION", "x_api_key", "X-Api-Key"])
    def test_are_known_in_any_case_and_with_underscores(self, name: str) -> None:
        assert redacted(tags={name: SECRET})["tags"][name] == REDACTED

    def test_of_the_settings_are_redacted_too(self) -> None:
        record = redacted(
            Redaction(headers=["X-Session"]), request_headers={"x-session": SECRET, "cookie": SECRET}
        )
        assert record["request_headers"] == {"x-session": REDACTED, "cookie": REDACTED}

    def test_with_a_url_in_them_lose_its_secrets(self) -> None:
        """RFC 6749 section 4.2.2: the implicit grant returns the token in the fragment of Location."""
        headers = {"location": f"https://app/cb#access_token={SECRET}&x=1"}
        assert redacted(response_headers=headers)["response_headers"]["location"] == (
            f"https://app/cb#access_token={REDACTED}&x=1"
        )

    @pytest.mark.parametrize("where", ["response_headers", "response_trailers"])
    def test_a_scheme_begins_a_challenge_only_where_challenges_are(self, where: str) -> None:
        values = {"www-authenticate": 'Bearer realm="api"', "x-any": f"Bearer {SECRET}"}
        entry: dict[str, Any] = {where: values}
        assert redacted(**entry)[where] == {**values, "x-any": f"Bearer {REDACTED}"}

    def test_nested_in_metadata_are_redacted(self) -> None:
        result = {
            "headers": {"cookie": SECRET},
            "list": [{"authorization": SECRET}, f"/a?token={SECRET}", [SECRET]],
        }
        metadata = redacted(metadata={"my.filter": result})["metadata"]["my.filter"]
        assert metadata["headers"] == {"cookie": REDACTED}
        assert metadata["list"] == [{"authorization": REDACTED}, f"/a?token={REDACTED}", [SECRET]]

    @pytest.mark.parametrize("scheme", ["Bearer", "basic", "DPoP", "Negotiate"])
    def test_that_a_tag_holds_by_another_name_are_known_by_their_scheme(self, scheme: str) -> None:
        record = redacted(
            tags={"who": f"{scheme} {SECRET}"}, request_headers={"x-forwarded-auth": f"{scheme} a=b"}
        )
        assert record["tags"] == {"who": f"{scheme} {REDACTED}"}
        assert record["request_headers"] == {"x-forwarded-auth": f"{scheme} {REDACTED}"}

    @pytest.mark.parametrize("field", ["referer", "user_agent", "forwarded_for", "request_id"])
    def test_in_a_text_of_the_client_are_known_by_their_scheme(self, field: str) -> None:
        record = {field: f"Bearer {SECRET}"}
        Redaction().apply(record)
        assert record[field] == f"Bearer {REDACTED}"

    def test_that_challenge_the_client_are_left(self) -> None:
        """RFC 6750 section 3: the challenge contains realm, scope and error."""
        challenge = 'Bearer realm="edge", error="invalid_token"'
        record = redacted(response_headers={"www-authenticate": challenge})
        assert record["response_headers"] == {"www-authenticate": challenge}

    def test_are_logged_by_any_name_once_authorization_is_allowed(self) -> None:
        record = redacted(Redaction(allow_headers=["authorization"]), tags={"who": "Bearer x"})
        assert record["tags"] == {"who": "Bearer x"}

    def test_a_descriptor_of_ratelimit_loses_its_secret(self) -> None:
        result = {
            "descriptors": [{"entries": [f"authorization=Bearer {SECRET}", f"token={SECRET}", "path=/a"]}]
        }
        record = redacted(metadata={"envoy.filters.http.ratelimit": result})
        [descriptor] = record["ratelimit_descriptors"]
        assert descriptor["entries"] == [f"authorization={REDACTED}", f"token={REDACTED}", "path=/a"]

    def test_a_descriptor_of_ratelimit_keeps_the_hash_of_its_secret(self) -> None:
        """And nothing that only looks like one, nor one in another place."""
        hashed = [
            f"api_key={SecretValues(hmac_key=key).shown('api_key', SECRET)}" for key in (b"", b"k" * 16)
        ]
        others = ["token=sha256:", f"token=sha256:{'A' * 16}", f"token=sha256:{'a' * 16}x", "token=md5:abc"]
        metadata = {
            "envoy.filters.http.ratelimit": {"descriptors": [{"entries": [*hashed, *others]}]},
            "my.filter": {"list": hashed},
        }
        record = redacted(metadata=metadata)
        kept = record["ratelimit_descriptors"][0]["entries"]
        assert kept == [*hashed, *[f"token={REDACTED}"] * 4]
        assert record["metadata"]["my.filter"]["list"] == [f"api_key={REDACTED}"] * 2

    def test_a_descriptor_of_ratelimit_is_searched_as_what_it_holds(self) -> None:
        entries = [
            f"path=/reset/{'a1' * 20}",
            f"x-tag=Basic {SECRET}",
            f"tag=token={SECRET}",
            "path=/b",
            f"q=/x?code={SECRET}",
        ]
        record = redacted(metadata={"envoy.filters.http.ratelimit": {"descriptors": [{"entries": entries}]}})
        assert record["ratelimit_descriptors"][0]["entries"] == [
            f"path=/reset/{REDACTED}",
            f"x-tag=Basic {REDACTED}",
            f"tag=token={REDACTED}",
            "path=/b",
            f"q=/x?code={REDACTED}",
        ]

    def test_nothing_to_redact_leaves_no_trace(self) -> None:
        assert "redacted" not in redacted(request_headers={"accept": "a=b;c=d"})


class TestQuery:
    @pytest.mark.parametrize("name", sorted(DEFAULT_QUERY_PARAMETERS))
    def test_parameters_that_hold_tokens_are_redacted_by_default(self, name: str) -> None:
        record = redacted(path=f"/a?x=1&{name}={SECRET}&y=2")
        assert record["query"] == f"x=1&{name}={REDACTED}&y=2"
        assert record["redacted"] == [f"query.{name.lower()}"]

    @pytest.mark.parametrize(
        "query",
        [
            f"access_token={SECRET}",
            f"a=b;access_token={SECRET}",
            f"Access_Token={SECRET}",
            f"access-token={SECRET}",
            f"access%5Ftoken={SECRET}",
            f"%61ccess_token={SECRET}",
            f"access_token[]={SECRET}",
            f"access_token%5B0%5D={SECRET}",
            f"access_token=%3D{SECRET}",
            f"access_token=a;{SECRET}",
            f"access_token=a%26{SECRET}",
            f"a=1&access_token=b={SECRET}",
            f"a=1#access_token={SECRET}",
            f"access_token={SECRET}&access_token={SECRET}",
            f"next=https%3A%2F%2Fapp%2F%3Faccess_token%3D{SECRET}",
            f"next=https%3a%2f%2fapp%2f%3fa%3d1%26access_token%3d{SECRET}%26b%3d2",
        ],
    )
    def test_a_token_is_found_however_it_is_spelled(self, query: str) -> None:
        record = redacted(path=f"/a?{query}", original_path=f"/b?{query}", referer=f"https://h/c?{query}")
        assert SECRET not in str(record)
        assert {field.partition(".")[0] for field in record["redacted"]} == {
            "query",
            "original_query",
            "referer",
        }

    @pytest.mark.parametrize(
        "query", ["tokens=1", "token_type=1", "x=token", "token", "password_hint=cat", "a=1%26b"]
    )
    def test_a_name_that_only_looks_alike_is_left(self, query: str) -> None:
        assert redacted(path=f"/a?{query}")["query"] == query

    def test_a_parameter_of_the_settings_is_redacted_too(self) -> None:
        record = redacted(Redaction(query_parameters=["mine"]), path=f"/a?mine={SECRET}&token={SECRET}")
        assert record["query"] == f"mine={REDACTED}&token={REDACTED}"

    @pytest.mark.parametrize("path", [f"/a;token={SECRET}/b", f"/a;token={SECRET};c=d/b"])
    def test_a_matrix_parameter_of_the_path_is_redacted_and_the_path_goes_on(self, path: str) -> None:
        """RFC 3986 section 3.3."""
        record = redacted(path=path)
        assert SECRET not in record["path"]
        assert record["path"].endswith("/b")

    def test_user_information_is_redacted(self) -> None:
        """RFC 3986 section 3.2.1: applications should not render it as clear text."""
        record = redacted(referer=f"https://user:{SECRET}@h/x?mail=a@b", authority=f"user:{SECRET}@h")
        assert record["referer"] == f"https://{REDACTED}@h/x?mail=a@b"
        assert record["authority"] == f"{REDACTED}@h"
        assert record["redacted"] == ["authority.userinfo", "referer.userinfo"]

    @given(
        name=st.sampled_from(sorted(DEFAULT_QUERY_PARAMETERS)),
        encode=st.sets(st.integers(0, 12)),
        before=st.lists(st.sampled_from(["a=1", "b", "c=%20", "x=y"]), max_size=3),
        value=st.text(min_size=1),
    )
    def test_no_spelling_of_a_name_lets_its_value_through(
        self, name: str, encode: set[int], before: list[str], value: str
    ) -> None:
        spelled = "".join(f"%{ord(c):02x}" if i in encode else c for i, c in enumerate(name))
        secret = f"<{quote(value, safe='')}>"
        record = redacted(path="/a?" + "&".join([*before, f"{spelled}={secret}"]))
        assert secret not in record["query"]
        assert record["query"].startswith("&".join(before))


class TestAllow:
    def test_takes_a_default_out_by_name_and_says_so(self) -> None:
        redaction = Redaction(allow_headers=["Cookie"], allow_query_parameters=["token"])
        record = redacted(
            redaction, path="/a?token=t&id_token=i", request_headers={"cookie": "c", "x-api-key": "k"}
        )
        assert record["query"] == f"token=t&id_token={REDACTED}"
        assert record["request_headers"] == {"cookie": "c", "x-api-key": REDACTED}
        assert redaction.allowed == ("cookie", "token")

    @pytest.mark.parametrize(
        "allow",
        [{"allow_headers": ["cokie"]}, {"allow_query_parameters": ["cookie"]}],
        ids=["typo", "wrong kind"],
    )
    def test_of_a_name_that_is_not_a_default_is_an_error(self, allow: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"redacted by default; did you mean 'co(oki|d)e'\?"):
            Redaction(**allow)

    def test_an_empty_list_of_further_names_leaves_the_defaults_on(self) -> None:
        redaction = Redaction(headers=[], query_parameters=[])
        assert redaction.allowed == ()
        assert redacted(redaction, tags={"cookie": SECRET})["tags"] == {"cookie": REDACTED}

    def test_of_everything_is_possible_only_name_by_name(self) -> None:
        redaction = Redaction(allow_headers=DEFAULT_HEADERS, allow_query_parameters=DEFAULT_QUERY_PARAMETERS)
        record = redacted(redaction, path="/a?token=t", tags={"cookie": "c"})
        assert "redacted" not in record
        assert len(redaction.allowed) == len(DEFAULT_HEADERS) + len(DEFAULT_QUERY_PARAMETERS)


@given(st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_any_text_can_be_redacted_and_written(headers: dict[str, str], path: str, referer: str) -> None:
    record = redacted(path=path, referer=referer, request_headers=headers, tags=headers)
    orjson.dumps(record)


def test_redacting_twice_changes_nothing() -> None:
    record = redacted(path=f"/a?token={SECRET}", tags={"cookie": SECRET})
    again = {**record, "tags": dict(record["tags"])}
    Redaction().apply(again)
    assert again == record


def test_each_place_is_named_once_however_often_and_however_it_was_written() -> None:
    record: dict[str, Any] = {"query": "token=a&Token=b&%20token=c&ToKeN=d"}
    Redaction().apply(record)
    assert record["redacted"] == ["query.token"]


def test_what_is_searched_for_secrets_is_cut_to_what_a_server_must_take() -> None:
    record = {"query": "a=" + "b" * 60_000, "path": "/ab" * 60_000}
    Redaction().apply(record)
    assert record["query"] == "a=" + "b" * (LONGEST_TEXT - 2) + "..."
    assert len(record["path"]) == LONGEST_TEXT + 3
