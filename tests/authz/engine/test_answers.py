"""What goes along with an allow: to the upstream, to the client, to later filters."""

from typing import Any, ClassVar

import pytest
from google.protobuf.json_format import MessageToDict

from authz.engine.decide import Authorizer, Decision, DecisionIds
from authz.engine.respond import Responder
from authz.policy.compile.load import parse_policy
from authz.policy.templates import MAX_VALUE_BYTES
from authz.request.identity import CredentialKind, Identity, Outcome, Refusal, RefusalReason
from authz.request.path import MAX_PATH_CHARACTERS
from authz.request.request import BadRequestError, BadRequestReason, Request
from common.configfile import ConfigError
from protos.authz_pb2 import CheckResponse
from tests.support.asking import caller
from tests.support.callers import Says
from tests.support.checks import check_request, request


class Answers:
    """A policy in service: what it answers to which request."""

    def __init__(self, policy: str, who: Outcome = None) -> None:
        compiled = parse_policy(policy)
        new_id = DecisionIds(lambda: 0.5)
        self.says = Says(who)
        self.authorizer = Authorizer(compiled, self.says, new_id)
        self.responder = Responder(compiled, "f" * 24)

    def __call__(self, *args: Any, **asked: Any) -> CheckResponse:
        decision = self.authorizer.decide(request(*args, **asked), 0.0)
        assert isinstance(decision, Decision)
        return CheckResponse.FromString(self.responder.respond(decision))


def pairs(options: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def test_odd_paths_do_not_drive_out_the_answers_that_are_kept() -> None:
    answers = Answers("""
credentials: {api_keys: {file: keys.yaml}}
rules:
  - name: files
    paths: ["/f/**"]
    allow: authenticated
    accept_in_path: [encoded_slash]
    client: [192.0.2.0/24]
  - {name: shut, paths: ["/f/x/**"], deny: {roles: [x]}}
""")
    for number in range(20):
        assert answers(path=f"/f/{number}%2f{number}").denied_response.status.code == 401
        assert answers(path=f"/f/x%2f{number}").denied_response.status.code == 401
    assert len(answers.responder._answers) == 2


class TestTemplates:
    COMMAS: ClassVar = {"one": ["staff,admin"], "name": "Doe, Jane"}
    """A list of one group is not two groups; a text may hold a comma."""

    @pytest.mark.parametrize(
        ("template", "value"),
        [
            ("subject", "alice"),
            ("'{subject}'", "alice"),
            ("'{claims.email}'", "a@example.com"),
            ("'tenant-{claims.tenant.id}/{subject}'", "tenant-7/alice"),
            ("'{claims.groups}'", "a,b"),
            ("'{claims.one}'", None),
            ("'{claims.name}'", "Doe, Jane"),
            ("'{claims.verified}'", "true"),
            ("'{claims.missing}'", None),
            ("'x-{claims.missing}'", None),
            ("'{claims.tenant}'", None),
            ("'{scopes}'", "users.read"),
        ],
    )
    def test_a_header_holds_what_is_known_of_the_caller(self, template: str, value: str | None) -> None:
        groups = ["b", "a", "x,y"]
        who = caller(email="a@example.com", tenant={"id": 7}, groups=groups, verified=True, **self.COMMAS)
        answer = Answers(
            f"identity_headers: {{x-a: {template}}}\nrules: [{{name: r, allow: authenticated}}]", who
        )()
        assert pairs(answer.ok_response.headers).get("x-a") == value
        assert ("x-a" in answer.ok_response.headers_to_remove) is (value is None)

    @pytest.mark.parametrize("claim", ["a\r\nx-admin: 1", "a\0x-admin: 1"])
    def test_cve_2023_27493_a_claim_ends_no_header(self, claim: str) -> None:
        policy = "rules: [{name: r, allow: authenticated, identity_headers: {x-a: '{claims.c}'}}]"
        answer = Answers(policy, caller(c=claim))()
        assert "x-a" in answer.ok_response.headers_to_remove
        assert "x-a" not in pairs(answer.ok_response.headers)

    @pytest.mark.parametrize("value", ["adm\nin", " admin", "admin\t", "\u00a0admin", "adm\x85in", "a\ud800"])
    def test_a_value_is_carried_as_it_is_or_not_at_all(self, value: str) -> None:
        """In headers, query, metadata and answers: a mended one would be somebody else's."""
        policy = """
metadata: {tenant: "{claims.c}", groups: "{claims.l}"}
rules:
  - name: r
    allow: authenticated
    identity_headers: {x-a: "{claims.c}", x-b: "to-{claims.c}-x", x-l: "{claims.l}"}
    query_set: {q: "{claims.c}"}
    response_headers: {x-r: "{claims.c}"}
"""
        who = Identity(
            CredentialKind.JWT, "a", scopes=frozenset({value, "s"}), roles=frozenset({value, "r"}),
            claims={"c": value, "l": [value, "one"]},
        )  # fmt: skip
        answer = Answers(policy, who)()
        upstream = pairs(answer.ok_response.headers)
        assert upstream == {"x-auth-subject": "a", "x-auth-scopes": "s", "x-auth-roles": "r", "x-l": "one"}
        assert not answer.ok_response.query_parameters_to_set
        assert not answer.ok_response.response_headers_to_add
        assert MessageToDict(answer.dynamic_metadata)["claims"] == {"groups": "one"}

    @pytest.mark.parametrize("value", ["c" * (MAX_VALUE_BYTES + 1), "\u00e9" * (MAX_VALUE_BYTES // 2 + 1)])
    def test_a_value_too_long_is_left_out(self, value: str) -> None:
        policy = "rules: [{name: r, allow: authenticated, identity_headers: {x-a: '{claims.c}'}}]"
        answer = Answers(policy, caller(c=value))()
        assert "x-a" in answer.ok_response.headers_to_remove
        assert "x-a" not in pairs(answer.ok_response.headers)

    def test_oauth2_proxy_1902_all_headers_together_leave_room_for_those_of_the_client(self) -> None:
        policy = (
            "identity_headers: {x-a: '{claims.a}', x-b: '{claims.b}', x-c: '{claims.c}', x-user: subject}\n"
            "rules: [{name: r, allow: authenticated}]"
        )
        answer = Answers(policy, caller(a="a" * 3000, b="b" * 4000, c="c" * 3000))()
        assert set(pairs(answer.ok_response.headers)) == {"x-a", "x-c", "x-user"}
        assert "x-b" in answer.ok_response.headers_to_remove

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("'{email}'", "'email' is unknown"),
            ("'{claims.}'", "is unknown"),
            ("'{claims.a'", "braces"),
            ("email", "is none of"),
            ("''", "expected text"),
            ('"{subject}\\r\\nx: y"', "control characters"),
        ],
    )
    def test_a_template_that_makes_no_sense_is_refused(self, template: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse_policy(f"identity_headers: {{x-a: {template}}}")


class TestClientHeaders:
    POLICY = """
rules:
  - name: r
    allow: anyone
    response_headers: {strict-transport-security: max-age=31536000, x-who: "{subject}"}
"""

    def test_they_are_added_to_the_response_in_place_of_others(self) -> None:
        options = Answers(self.POLICY)().ok_response.response_headers_to_add
        assert pairs(options) == {"strict-transport-security": "max-age=31536000"}
        assert all(option.HasField("append") and not option.append.value for option in options)

    @pytest.mark.parametrize(
        "name", ["set-cookie", "location", "content-length", "access-control-allow-origin"]
    )
    def test_headers_with_a_meaning_of_their_own_cannot_be_set(self, name: str) -> None:
        with pytest.raises(ConfigError, match="meaning of its own"):
            parse_policy(f"rules: [{{name: r, allow: anyone, response_headers: {{{name}: x}}}}]")


class TestQuery:
    def test_parameters_are_set_and_removed(self) -> None:
        policy = """
rules:
  - name: r
    allow: authenticated
    query_set: {tenant: "{claims.tenant}", source: edge, lost: "{claims.lost}"}
    query_remove: [debug, source]
"""
        query = "debug=1&source=forged&lost=1&other=2"
        ok = Answers(policy, caller(tenant="acme"))(path=f"/?{query}").ok_response
        assert {one.key: one.value for one in ok.query_parameters_to_set} == {
            "tenant": "acme",
            "source": "edge",
        }
        assert list(ok.query_parameters_to_remove) == ["debug", "lost"]

    def test_a_value_adds_no_parameter_of_its_own(self) -> None:
        """Envoy writes it into the path as it is."""
        policy = "rules: [{name: r, allow: authenticated, query_set: {tenant: '{claims.tenant}'}}]"
        [set_to] = Answers(policy, caller(tenant="a&admin=1 #é"))().ok_response.query_parameters_to_set
        assert (set_to.key, set_to.value) == ("tenant", "a%26admin%3D1%20%23%C3%A9")

    def test_other_spellings_of_a_name_are_removed_too(self) -> None:
        """Envoy compares names as they stand, upstreams decode them."""
        policy = "rules: [{name: r, allow: anyone, query_set: {tenant: a}, query_remove: [debug, x y]}]"
        answers = Answers(policy)
        query = "%64ebug=1&te%6Eant=b&debug=2&x+y=3&other=%64ebug"
        ok = answers(path=f"/?{query}").ok_response
        assert set(ok.query_parameters_to_remove) == {"debug", "%64ebug", "te%6Eant", "x+y"}

    @pytest.mark.parametrize("path", ["/", "/?user=1&expires=9&sig=z", "/?debugging=1&a=debug"])
    def test_no_parameter_is_named_that_the_request_lacks(self, path: str) -> None:
        """Envoy would sort and re-encode the query all the same, and so break a signed URL."""
        policy = "rules: [{name: r, allow: anyone, query_remove: [debug]}]"
        assert not Answers(policy)(path=path).ok_response.query_parameters_to_remove

    @pytest.mark.parametrize(
        "spelling",
        ["Debug_Me", "debug_me[]", "debug_me[0]", "debug.me", "+debug_me", "debug%20me", "debug_me%00x",
         "DEBUG%5Fme%5B%5D"],
    )  # fmt: skip
    def test_a_parameter_is_removed_as_some_upstream_would_read_it(self, spelling: str) -> None:
        policy = "rules: [{name: r, allow: anyone, query_remove: [debug_me]}]"
        ok = Answers(policy)(path=f"/?a=1&{spelling}=1").ok_response
        assert list(ok.query_parameters_to_remove) == [spelling]

    @pytest.mark.parametrize(
        ("query", "removed"),
        [
            ("a=1;debug=1&b=2", "a"),
            ("a;%64ebug=1", "a;%64ebug"),
            (";debug", ";debug"),
            ("a=1;x=debug;tenant=evil", "a"),
        ],
    )
    def test_cve_2021_23336_what_hides_a_name_behind_a_semicolon_goes_as_a_whole(
        self, query: str, removed: str
    ) -> None:
        """Envoy splits at `&` alone, some upstreams at `;` too: a part of a parameter cannot be removed."""
        policy = "rules: [{name: r, allow: anyone, query_set: {tenant: a}, query_remove: [debug]}]"
        ok = Answers(policy)("GET", f"/x?{query}").ok_response
        assert removed in ok.query_parameters_to_remove
        assert "b" not in ok.query_parameters_to_remove


class TestSessionCookie:
    POLICY = """
credentials: {sessions: {store: memory, locations: [{cookie: session}]}}
rules:
  - {name: app, paths: [/app], allow: anyone}
  - {name: sso, paths: [/sso], allow: anyone, strip_session_cookie: false}
"""

    @pytest.mark.parametrize(
        ("cookies", "upstream"),
        [
            (["session=abc; theme=dark; lang=de"], "theme=dark; lang=de"),
            (["theme=dark", "session=abc", "lang=de"], "theme=dark; lang=de"),
            (["theme=dark;session = abc"], "theme=dark"),
            (["a=1; session=abc; b=caf\u00e9"], "a=1"),
        ],
    )
    def test_oauth2_proxy_644_it_does_not_go_upstream(self, cookies: list[str], upstream: str) -> None:
        answer = Answers(self.POLICY)(path="/app", headers=[("cookie", line) for line in cookies])
        assert pairs(answer.ok_response.headers)["cookie"] == upstream
        assert answer.ok_response.headers[-1].append.value is False
        assert "x-auth-subject" in answer.ok_response.headers_to_remove

    def test_a_policy_may_say_otherwise_for_all(self) -> None:
        answer = Answers("strip_session_cookie: false" + self.POLICY)(
            path="/app", headers=[("cookie", "session=abc")]
        )
        assert "cookie" not in answer.ok_response.headers_to_remove

    def test_a_header_with_nothing_else_is_removed(self) -> None:
        answer = Answers(self.POLICY)(path="/app", headers=[("cookie", "session=abc")])
        assert "cookie" in answer.ok_response.headers_to_remove
        assert "cookie" not in pairs(answer.ok_response.headers)

    @pytest.mark.parametrize(
        ("path", "cookie"), [("/app", "theme=dark; sessions=1"), ("/sso", "session=abc"), ("/app", "")]
    )
    def test_other_cookies_and_other_rules_are_left_alone(self, path: str, cookie: str) -> None:
        ok = Answers(self.POLICY)(path=path, headers=[("cookie", cookie)] if cookie else []).ok_response
        assert "cookie" not in pairs(ok.headers)
        assert "cookie" not in ok.headers_to_remove

    def test_what_is_kept_of_one_caller_is_not_the_cookie_of_another(self) -> None:
        answers = Answers(self.POLICY)
        for value in ("1", "2"):
            ok = answers(path="/app", headers=[("cookie", f"session=x; a={value}")]).ok_response
            assert pairs(ok.headers)["cookie"] == f"a={value}"


def test_chosen_claims_stand_in_the_metadata() -> None:
    policy = """
metadata: {tenant: "{claims.tenant}", roles: roles, lost: "{claims.lost}"}
rules: [{name: r, allow: {claims: {tenant: acme}}}]
"""
    metadata = MessageToDict(Answers(policy, caller(tenant="acme"))().dynamic_metadata)
    assert metadata["claims"] == {"tenant": "acme", "roles": "staff"}
    refused = MessageToDict(Answers(policy, caller(tenant="other"))().dynamic_metadata)
    assert (refused["claims"]["tenant"], refused["rule"]) == ("other", "r")
    assert "claims" not in MessageToDict(Answers(policy)().dynamic_metadata)


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
        told = pairs(answer.denied_response.headers) | pairs(answer.ok_response.response_headers_to_add)
        assert not [name for name in told if name.startswith("access-control-")]

    def test_a_script_may_read_the_response_and_the_refusal(self) -> None:
        headers = {"origin": "https://app.example.com"}
        allowed = Answers(self.POLICY, caller())("PUT", "/api", headers=headers)
        refused = Answers(self.POLICY)("PUT", "/api", headers=headers)
        assert refused.denied_response.status.code == 401
        for told in (allowed.ok_response.response_headers_to_add, refused.denied_response.headers):
            assert pairs(told)["access-control-allow-origin"] == "https://app.example.com"
            assert pairs(told)["access-control-expose-headers"] == "x-total"
            assert "origin" in pairs(told)["vary"]

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/closed", 403), ("/office", 403), ("/odd/a%2Fb", 400), ("/odd/a%00", 400), ("/two", 401)],
    )
    def test_emissary_3051_envoy_23473_a_script_may_read_every_refusal(self, path: str, status: int) -> None:
        """Also of a deny rule, and of a path that readers differ about."""
        answers = Answers(self.POLICY)
        for _ in range(2):
            told = answers(path=path, headers={"origin": "https://app.example.com"}).denied_response
            assert told.status.code == status
            assert pairs(told.headers)["access-control-allow-origin"] == "https://app.example.com"
            assert [one.header.value for one in told.headers if one.header.key == "vary"] == [
                "accept",
                "origin",
            ]
        for headers in ({}, {"origin": "https://evil.example"}):
            told = answers(path=path, headers=headers).denied_response
            assert not [name for name in pairs(told.headers) if name.startswith("access-control-")]

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
        told = Answers(self.POLICY, who)(path="/two", headers={"origin": "https://app.example.com"})
        assert pairs(told.ok_response.response_headers_to_add) == {
            "access-control-allow-origin": "https://app.example.com",
            "vary": "origin",
        }

    def test_an_outage_is_readable(self) -> None:
        refused = Refusal(RefusalReason.KEYS_UNAVAILABLE)
        told = Answers(self.POLICY, refused)(path="/two", headers={"origin": "https://app.example.com"})
        assert told.error_response.status.code == 503
        assert pairs(told.error_response.headers)["access-control-allow-origin"] == "https://app.example.com"

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
        told = CheckResponse.FromString(answer).denied_response
        assert told.status.code == 400
        assert pairs(told.headers)["access-control-allow-origin"] == "https://app.example.com"
        assert told.body.startswith("400 Bad Request")

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
            told = answers("PUT", "/api", headers=headers).ok_response.response_headers_to_add
            assert [(one.header.key, one.header.value) for one in told] == [("vary", "origin")]

    def test_a_cache_is_told_once_that_origins_get_other_responses(self) -> None:
        """Also where none asks: a browser's cache hands to a script what it got for an image."""
        answers = Answers(self.POLICY, caller())
        told = answers("PUT", "/api", headers={"origin": "https://app.example.com"}).ok_response
        varies = [one for one in told.response_headers_to_add if one.header.key == "vary"]
        assert [(one.header.value, one.append.value) for one in varies] == [("origin", True)]


def test_an_mtls_caller_has_no_claims_and_gets_no_header_of_them() -> None:
    policy = "rules: [{name: r, allow: authenticated, identity_headers: {x-a: '{claims.c}'}}]"
    answer = Answers(policy, Identity(CredentialKind.MTLS, "spiffe://x/y"))()
    assert "x-a" in answer.ok_response.headers_to_remove
