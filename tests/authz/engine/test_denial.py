"""What the client gets that may not."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from authz.engine.decide import REFUSED
from authz.engine.login import MAX_RETURN_CHARACTERS
from authz.policy.compile.load import parse_policy
from authz.request.identity import Refusal, RefusalReason
from common.configfile import ConfigError
from tests.support.answers import Answers, headers_of
from tests.support.callers import ALICE

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
POLICY = """
rules:
  - {name: users, paths: [/users], allow: {scopes: [users.write]}}
  - {name: gone, paths: [/gone], deny: anyone, answer: {status: 404, detail: "It was <moved>."}}
"""


class TestForm:
    @pytest.mark.parametrize(
        ("accept", "content_type"),
        [
            (None, "application/problem+json"),
            ("*/*", "application/problem+json"),
            ("application/json", "application/problem+json"),
            (BROWSER["accept"], "text/html; charset=utf-8"),
            ("text/plain", "text/plain; charset=utf-8"),
            ("text/*", "text/html; charset=utf-8"),
            ("text/html;q=0.5, application/json", "application/problem+json"),
            ("application/json;q=0, text/plain;q=0.1", "text/plain; charset=utf-8"),
            ("image/png", "application/problem+json"),
            ("text/html;q=nonsense", "application/problem+json"),
            ("a," * 2000 + "text/html", "application/problem+json"),
        ],
    )
    def test_the_body_is_in_the_form_that_the_client_asks_for(
        self, accept: str | None, content_type: str
    ) -> None:
        """RFC 9110 section 12.5.1."""
        response = Answers(POLICY)(path="/users", headers={"accept": accept} if accept else {})
        assert headers_of(response)["content-type"] == content_type
        assert headers_of(response)["vary"] == "accept"

    def test_a_page_holds_no_markup_of_others_and_runs_nothing(self) -> None:
        response = Answers(POLICY)(path="/gone", headers=BROWSER)
        assert response.denied_response.status.code == 404
        assert "It was &lt;moved&gt;." in response.denied_response.body
        assert headers_of(response)["content-security-policy"] == "default-src 'none'"

    def test_a_rule_has_words_of_its_own(self) -> None:
        problem = orjson.loads(Answers(POLICY)(path="/gone").denied_response.body)
        assert (problem["status"], problem["title"], problem["detail"]) == (
            404,
            "Not Found",
            "It was <moved>.",
        )

    @pytest.mark.parametrize(("said", "seconds"), [(", retry_after_seconds: 900", "900"), ("", "60")])
    def test_what_is_out_of_service_says_when_to_come_back(self, said: str, seconds: str) -> None:
        policy = f"rules: [{{name: r, deny: anyone, answer: {{status: 503{said}}}}}]"
        response = Answers(policy)()
        assert response.denied_response.status.code == 503
        assert headers_of(response)["retry-after"] == seconds
        problem = orjson.loads(response.denied_response.body)
        assert problem["detail"] == "This resource is out of service at the moment. Try again later."
        assert response.dynamic_metadata["outcome"] == "deny"
        grpc = Answers(policy)(headers={"content-type": "application/grpc"})
        assert headers_of(grpc)["grpc-status"] == "14"

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ("{status: 200}", "expected one of 400 to 499, or 503"),
            ("{status: 500}", "expected one of 400 to 499, or 503"),
            ("{status: 404, retry_after_seconds: 9}", "belongs to status 429 or 503"),
            ("{status: 503, retry_after_seconds: 0}", "retry_after_seconds"),
        ],
    )
    def test_what_no_deny_rule_answers_is_an_error(self, answer: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse_policy(f"rules: [{{name: r, deny: anyone, answer: {answer}}}]")

    def test_answers_in_two_forms_are_not_mixed_up(self) -> None:
        answers = Answers(POLICY)
        for _ in range(2):
            for accept, begin in (("text/html", "<!doctype"), ("text/plain", "401 "), ("*/*", "{")):
                body = answers(path="/users", headers={"accept": accept}).denied_response.body
                assert body.startswith(begin)

    @pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc-web"])
    def test_envoy_11079_grpc_callers_get_a_denial_they_understand(self, kind: str) -> None:
        """Envoy makes the body the grpc-message; a content type of ours would break the answer."""
        response = Answers(POLICY)("POST", "/users", headers={"content-type": kind})
        assert response.denied_response.body == "This resource needs a credential."
        assert headers_of(response)["grpc-status"] == "16"
        assert "content-type" not in headers_of(response)


class TestRefusals:
    @pytest.mark.parametrize(
        ("reason", "status", "grpc"),
        [
            (RefusalReason.TOKEN_EXPIRED, 401, "16"),
            (RefusalReason.CREDENTIALS_AMBIGUOUS, 400, "3"),
            (RefusalReason.THROTTLED, 429, "8"),
            (RefusalReason.KEYS_UNAVAILABLE, 503, "14"),
        ],
    )
    def test_each_has_its_status(self, reason: RefusalReason, status: int, grpc: str) -> None:
        answers = Answers(POLICY, Refusal(reason))
        response = answers(path="/users")
        answer = response.error_response if status == 503 else response.denied_response
        assert answer.status.code == status
        asked = answers("POST", "/users", headers={"content-type": "application/grpc"})
        assert headers_of(asked)["grpc-status"] == grpc

    @pytest.mark.parametrize("reason", [RefusalReason.THROTTLED, RefusalReason.KEYS_UNAVAILABLE])
    def test_a_client_that_should_come_back_later_learns_when(self, reason: RefusalReason) -> None:
        result = headers_of(Answers(POLICY, Refusal(reason))(path="/users"))
        assert int(result["retry-after"]) > 0
        assert "www-authenticate" not in result

    @pytest.mark.parametrize("reason", RefusalReason)
    def test_every_refusal_names_the_rule_that_needed_a_credential(self, reason: RefusalReason) -> None:
        response = Answers(POLICY, Refusal(reason))(path="/users")
        assert response.dynamic_metadata["rule"] == "users"
        assert response.dynamic_metadata["reason"] == reason.value
        assert response.status.code != 0

    def test_an_expired_token_is_challenged_with_the_scope_that_is_enough(self) -> None:
        result = headers_of(Answers(POLICY, Refusal(RefusalReason.TOKEN_EXPIRED))(path="/users"))
        expected = (
            'Bearer error="invalid_token", error_description="The token has expired.", scope="users.write"'
        )
        assert result["www-authenticate"] == expected

    def test_every_verdict_on_a_refusal_has_words_for_its_status(self) -> None:
        assert {verdict.status for verdict in REFUSED.values()} <= {400, 401, 429, 503}


class TestLogin:
    POLICY = """
login: {url: "https://login.example.com/start?app=1", return_parameter: rd}
rules: [{name: app, allow: authenticated, accept_in_path: [empty_segment, backslash, parameters]}]
"""

    def target(self, path: str, **asked: Any) -> str | None:
        response = Answers(self.POLICY)(path=path, headers=BROWSER | asked.pop("headers", {}), **asked)
        location = headers_of(response).get("location")
        if location is None:
            return None
        assert response.denied_response.status.code == 302
        assert location.startswith("https://login.example.com/start?app=1&rd=")
        (target,) = parse_qs(urlsplit(location).query)["rd"]
        return target

    @pytest.mark.parametrize(
        "path", ["/", "/a/b?x=1&y=%2F#", "/caf%C3%A9?q=a+b", "/a?next=https://evil.example"]
    )
    def test_a_browser_is_sent_to_the_login_and_back_to_where_it_was(self, path: str) -> None:
        path = path.removesuffix("#")
        assert self.target(path) == path

    @pytest.mark.parametrize(
        "path",
        [
            "//evil.example",
            "//evil.example/%2e%2e",
            "/\\evil.example",
            "/%5Cevil.example",
            "/;@evil.example",
            "/" + "a" * MAX_RETURN_CHARACTERS,
        ],
    )
    def test_cwe_601_no_way_back_leads_to_another_host(self, path: str) -> None:
        assert self.target(path) in {"/", None}

    @pytest.mark.parametrize("query", ["?\r\nlocation: https://evil.example", "?a=b\tc", "?%0d%0a"])
    def test_nothing_in_a_query_ends_the_header(self, query: str) -> None:
        response = Answers(self.POLICY)(path=f"/a{query}", headers=BROWSER)
        assert headers_of(response)["location"].isprintable()
        assert " " not in headers_of(response)["location"]

    @pytest.mark.parametrize(
        "asked",
        [
            {"method": "POST"},
            {"headers": {"accept": "application/json"}},
            {"headers": {"sec-fetch-mode": "cors"}},
            {"headers": {"content-type": "application/grpc"}},
        ],
    )
    def test_what_shows_no_page_gets_401(self, asked: dict[str, Any]) -> None:
        assert self.target("/a", **asked) is None

    def test_who_may_not_is_not_sent_to_log_in_again(self) -> None:
        policy = "login: {url: /login}\nrules: [{name: app, allow: {roles: [boss]}}]"
        assert Answers(policy, ALICE)(headers=BROWSER).denied_response.status.code == 403

    def test_the_login_page_itself_leads_to_no_login(self) -> None:
        policy = "login: {url: /login}\nrules: [{name: app, allow: authenticated}]"
        assert "location" not in headers_of(Answers(policy)(path="/login", headers=BROWSER))
        assert headers_of(Answers(policy)(path="/a", headers=BROWSER))["location"] == "/login?return_to=/a"

    @pytest.mark.parametrize(
        "url", ["//evil.example", "javascript:alert(1)", "login", "https://a/#b", "/a b"]
    )
    def test_a_login_is_a_url_or_a_path(self, url: str) -> None:
        with pytest.raises(ConfigError, match="expected a URL or a path"):
            parse_policy(f"login: {{url: '{url}'}}")
