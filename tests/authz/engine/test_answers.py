"""What goes along with an allow: to the upstream, to the client, to later filters."""

from typing import ClassVar

import pytest
from google.protobuf.json_format import MessageToDict

from authz.policy.compile.load import parse_policy
from authz.policy.templates import MAX_VALUE_BYTES
from authz.request.identity import CredentialKind, Identity
from common.configfile import ConfigError
from tests.support.answers import Answers, pairs
from tests.support.asking import caller


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
        """Envoy compares undecoded names, upstreams decode them."""
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


def test_chosen_claims_are_in_the_metadata() -> None:
    policy = """
metadata: {tenant: "{claims.tenant}", roles: roles, lost: "{claims.lost}"}
rules: [{name: r, allow: {claims: {tenant: acme}}}]
"""
    metadata = MessageToDict(Answers(policy, caller(tenant="acme"))().dynamic_metadata)
    assert metadata["claims"] == {"tenant": "acme", "roles": "staff"}
    refused = MessageToDict(Answers(policy, caller(tenant="other"))().dynamic_metadata)
    assert (refused["claims"]["tenant"], refused["rule"]) == ("other", "r")
    assert "claims" not in MessageToDict(Answers(policy)().dynamic_metadata)


def test_an_mtls_caller_has_no_claims_and_gets_no_header_of_them() -> None:
    policy = "rules: [{name: r, allow: authenticated, identity_headers: {x-a: '{claims.c}'}}]"
    answer = Answers(policy, Identity(CredentialKind.MTLS, "spiffe://x/y"))()
    assert "x-a" in answer.ok_response.headers_to_remove
