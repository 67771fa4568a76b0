"""What scripts of other origins may ask and read (Fetch standard, CORS protocol)."""

from typing import Any, ClassVar

import pytest
from google.protobuf.json_format import MessageToDict

from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason
from authz.request.path import MAX_PATH_CHARACTERS
from authz.request.request import BadRequestError, BadRequestReason, Request
from protos.authz_pb2 import CheckResponse
from tests.support.answers import Answers, pairs
from tests.support.asking import caller
from tests.support.checks import check_request


class TestCors:
    POLICY = """
rules:
  - name: api
    methods: [PUT]
    paths: [/api]
    allow: authenticated
    cors:
      origins: [https://app.example.com]
      headers: [authorization, x-custom]
      expose: [x-total]
      credentials: true
      max_age_seconds: 60
  - {name: plain, paths: [/plain], allow: anyone}
  - {name: closed, paths: [/closed], deny: anyone}
  - {name: closed too, paths: [/closed], allow: anyone, cors: {origins: https://app.example.com}}
  - {name: odd, paths: ["/odd/{x}"], allow: anyone, accept_in_path: [parameters], cors: {origins: https://app.example.com}}
  - {name: first, paths: [/two], allow: {roles: [staff]}}
  - {name: second, paths: [/two], allow: {roles: [boss]}, cors: {origins: https://app.example.com}}
  - {name: office, paths: [/office], allow: anyone, client: 10.0.0.0/8, cors: {origins: https://app.example.com}}
"""
    ASKS: ClassVar = {"origin": "https://app.example.com", "access-control-request-method": "PUT"}

    def test_a_preflight_is_answered_by_the_rule_of_the_request_it_asks_for(self) -> None:
        answers = Answers(self.POLICY)
        answer = answers("OPTIONS", "/api", headers=self.ASKS)
        assert answer.denied_response.status.code == 204
        assert pairs(answer.denied_response.headers) == {
            "access-control-allow-origin": "https://app.example.com",
            "access-control-allow-credentials": "true",
            "access-control-allow-methods": "PUT",
            "access-control-allow-headers": "authorization, x-custom",
            "access-control-max-age": "60",
            "vary": "origin, access-control-request-method",
        }
        assert answers.says.times == 0
        metadata = MessageToDict(answer.dynamic_metadata)
        assert (metadata["outcome"], metadata["rule"]) == ("preflight", "api")

    @pytest.mark.parametrize(
        ("path", "change"),
        [
            ("/api", {"origin": "https://evil.example"}),
            ("/api", {"origin": "https://app.example.com.evil.example"}),
            ("/api", {"origin": "null"}),
            ("/api", {"access-control-request-method": "DELETE"}),
            ("/plain", {}),
            ("/closed", {"origin": "https://evil.example"}),
            ("/api//x", {}),
        ],
    )
    def test_no_other_script_is_let_in(self, path: str, change: dict[str, str]) -> None:
        answer = Answers(self.POLICY)("OPTIONS", path, headers=self.ASKS | change)
        result = pairs(answer.denied_response.headers) | pairs(answer.ok_response.response_headers_to_add)
        assert not [name for name in result if name.startswith("access-control-")]

    def test_a_script_may_read_the_response_and_the_refusal(self) -> None:
        headers = {"origin": "https://app.example.com"}
        allowed = Answers(self.POLICY, caller())("PUT", "/api", headers=headers)
        refused = Answers(self.POLICY)("PUT", "/api", headers=headers)
        assert refused.denied_response.status.code == 401
        for result in (allowed.ok_response.response_headers_to_add, refused.denied_response.headers):
            assert pairs(result)["access-control-allow-origin"] == "https://app.example.com"
            assert pairs(result)["access-control-expose-headers"] == "x-total"
            assert "origin" in pairs(result)["vary"]

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/closed", 403), ("/office", 403), ("/odd/a%2Fb", 400), ("/odd/a%00", 400), ("/two", 401)],
    )
    def test_emissary_3051_envoy_23473_a_script_may_read_every_refusal(self, path: str, status: int) -> None:
        """Also of a deny rule, and of a path that readers differ about."""
        answers = Answers(self.POLICY)
        for _ in range(2):
            result = answers(path=path, headers={"origin": "https://app.example.com"}).denied_response
            assert result.status.code == status
            assert pairs(result.headers)["access-control-allow-origin"] == "https://app.example.com"
            assert [one.header.value for one in result.headers if one.header.key == "vary"] == [
                "accept",
                "origin",
            ]
        for headers in ({}, {"origin": "https://evil.example"}):
            result = answers(path=path, headers=headers).denied_response
            assert not [name for name in pairs(result.headers) if name.startswith("access-control-")]

    @pytest.mark.parametrize("path", ["/closed", "/odd/a;b", "/two"])
    def test_what_will_be_refused_may_be_asked_for(self, path: str) -> None:
        """Or the script would never learn why it is refused."""
        asks = self.ASKS | {"access-control-request-method": "GET"}
        assert Answers(self.POLICY)("OPTIONS", path, headers=asks).denied_response.status.code == 204

    def test_a_path_that_no_rule_accepts_may_not_be_asked_for(self) -> None:
        asks = self.ASKS | {"access-control-request-method": "GET"}
        assert Answers(self.POLICY)("OPTIONS", "/odd/a%2Fb", headers=asks).denied_response.status.code == 400

    def test_a_response_is_readable_that_another_rule_allows(self) -> None:
        """As the preflight said."""
        who = Identity(CredentialKind.JWT, "a", roles=frozenset({"staff"}))
        result = Answers(self.POLICY, who)(path="/two", headers={"origin": "https://app.example.com"})
        assert pairs(result.ok_response.response_headers_to_add) == {
            "access-control-allow-origin": "https://app.example.com",
            "vary": "origin",
        }

    def test_an_outage_is_readable(self) -> None:
        refused = Refusal(RefusalReason.KEYS_UNAVAILABLE)
        result = Answers(self.POLICY, refused)(path="/two", headers={"origin": "https://app.example.com"})
        assert result.error_response.status.code == 503
        assert (
            pairs(result.error_response.headers)["access-control-allow-origin"] == "https://app.example.com"
        )

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"headers": {"authorization": "Bearer a, Bearer b"}}, BadRequestReason.DUPLICATE_AUTHORIZATION),
            ({"method": "patch"}, BadRequestReason.METHOD_CASE),
            (
                {"path": "/two?a=" + "b" * 10, "headers": {"host": "b.example"}},
                BadRequestReason.DUPLICATE_HOST,
            ),
        ],
    )
    def test_what_cannot_be_judged_is_answered_readably_and_in_the_right_form(
        self, changes: dict[str, Any], reason: BadRequestReason
    ) -> None:
        answers = Answers(self.POLICY)
        headers = {"origin": "https://app.example.com", "accept": "text/plain"} | changes.pop("headers", {})
        message = check_request(**{"path": "/two", "headers": headers} | changes)
        with pytest.raises(BadRequestError, match=reason):
            Request(message)
        answer = answers.responder.respond(answers.authorizer.unreadable(message, BadRequestError(reason)))
        result = CheckResponse.FromString(answer).denied_response
        assert result.status.code == 400
        assert pairs(result.headers)["access-control-allow-origin"] == "https://app.example.com"
        assert result.body.startswith("400 Bad Request")

    @pytest.mark.parametrize(
        "changes",
        [{"host": "a,b"}, {"path": "no-slash"}, {"path": "/" * (MAX_PATH_CHARACTERS + 1)}, {"method": ""}],
    )
    def test_what_names_no_rule_is_answered_all_the_same(self, changes: dict[str, str]) -> None:
        answers = Answers(self.POLICY)
        message = check_request(headers={"origin": "https://app.example.com"}, **changes)
        with pytest.raises(BadRequestError) as caught:
            Request(message)
        answer = answers.responder.respond(answers.authorizer.unreadable(message, caught.value))
        assert CheckResponse.FromString(answer).denied_response.status.code == 400

    def test_the_answer_to_one_origin_is_not_kept_for_another(self) -> None:
        answers = Answers(self.POLICY, caller())
        answers("PUT", "/api", headers={"origin": "https://app.example.com"})
        for headers in ({}, {"origin": "https://evil.example"}):
            result = answers("PUT", "/api", headers=headers).ok_response.response_headers_to_add
            assert [(one.header.key, one.header.value) for one in result] == [("vary", "origin")]

    def test_one_vary_header_says_that_origins_get_other_responses(self) -> None:
        """Also where none asks: a browser's cache hands to a script what it got for an image."""
        answers = Answers(self.POLICY, caller())
        result = answers("PUT", "/api", headers={"origin": "https://app.example.com"}).ok_response
        varies = [one for one in result.response_headers_to_add if one.header.key == "vary"]
        assert [(one.header.value, one.append.value) for one in varies] == [("origin", True)]
