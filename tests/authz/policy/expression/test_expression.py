"""`when:` and what else is asked of callers."""

from typing import Any

import pytest

from authz.policy.compile.load import parse_policy
from authz.policy.expression.expression import MAX_CALLERS, Callers, Expression
from authz.request.identity import ANONYMOUS, CredentialKind, Identity
from common.configfile import ConfigError
from tests.support.asking import NOON, allowed, ask, caller, denied
from tests.support.callers import ALICE
from tests.support.checks import request


class TestClaims:
    @pytest.mark.parametrize(
        ("asked", "held"),
        [
            ("tenant: acme", True),
            ("tenant: other", False),
            ("tenant: [acme, other]", True),
            ("tenant: {not_one_of: [other]}", True),
            ("tenant: {prefix: ac}", True),
            ("tenant: {matches: 'a.*e'}", True),
            ("groups: {contains: dev}", True),
            ("groups: dev", True),
            ("groups: {not_one_of: [dev]}", False),
            ("groups: {not_one_of: [ops]}", True),
            ("realm.roles: {contains: admin}", True),
            ("realm.roles.x: {contains: admin}", False),
            (r"'https://x\.example/level': {at_least: 3}", True),
            ("'https://x.example/level': {at_least: 3}", False),
            ("verified: true", True),
            ("verified: 1", False),
            ("verified: 'true'", False),
            ("absent: {present: false}", True),
            ("absent: x", False),
            ("absent: {not_one_of: [x]}", False),
            ("nothing: {present: true}", False),
        ],
    )
    def test_a_claim_is_found_by_its_dotted_name_and_compared(self, asked: str, held: bool) -> None:
        who = caller(
            tenant="acme",
            groups=["dev", "qa"],
            realm={"roles": ["admin"]},
            verified=True,
            nothing=None,
            **{"https://x.example/level": 3},
        )
        policy = f"rules: [{{name: r, allow: {{claims: {{{asked}}}}}}}]"
        assert (ask(policy, who).verdict.status == 200) is held

    def test_a_deny_rule_about_a_claim_that_is_missing(self) -> None:
        """A comparison with an absent value is false, and an anonymous request has no caller."""
        policy = "rules: [{name: o, allow: anyone}, {name: r, deny: {claims: {amr: {not_one_of: [mfa]}}}}]"
        assert ask(policy, caller()).verdict.rule == "r"
        assert ask(policy, caller(amr=["mfa"])).verdict.rule == "o"
        assert ask(policy).verdict.rule == "o"

    def test_an_audience_is_one_of_those_of_the_token(self) -> None:
        who = Identity(CredentialKind.JWT, "a", audiences=frozenset({"api"}))
        assert ask("rules: [{name: r, allow: {audiences: [api, b]}}]", who).verdict.status == 200
        assert ask("rules: [{name: r, allow: {audiences: [b]}}]", who).verdict.status == 403


class TestWhen:
    @pytest.mark.parametrize(
        ("expression", "held"),
        [
            ("method == 'GET' && host == 'api.example.com' && path == '/t/acme/x'", True),
            ("segments[1] == 'acme'", True),
            ("headers['x-a'] == ['b']", True),
            ("query['q'] == ['1', '2']", True),
            ("client.startsWith('192.0.2.')", True),
            ("now.getDayOfWeek() == 1 && now > timestamp('2026-01-01T00:00:00Z')", True),
            ("subject == 'alice' && kind == 'jwt' && 'staff' in roles && 'users.read' in scopes", True),
            ("claims.tenant == 'acme'", True),
            ("claims.groups.exists(g, g.startsWith('d'))", True),
            ("has(claims.missing)", False),
            ("method == 'PUT'", False),
        ],
    )
    def test_an_expression_sees_request_and_caller(self, expression: str, held: bool) -> None:
        who = caller(tenant="acme", groups=["dev"])
        asked: dict[str, Any] = {"path": "/t/acme/x?q=1&q=2", "headers": [("x-a", "b")]}
        assert allowed(f'when: "{expression}"', who, **asked) is held
        assert denied(f'when: "{expression}"', who, **asked) is held

    @pytest.mark.parametrize(
        "expression",
        [
            "claims.missing == 'x'",
            "!(claims.missing == 'x')",
            "headers['x-missing'][0] == 'x'",
            "claims.tenant == 1 || claims.tenant > 1",
            "1 / size(claims.empty) == 1",
            "claims.tenant",
            "peer == 'spiffe://x'",
            "body.a == 1",
        ],
    )
    def test_what_fails_or_is_missing_never_allows_and_always_denies(self, expression: str) -> None:
        who = caller(tenant="acme", empty="")
        assert not allowed(f'when: "{expression}"', who)
        assert denied(f'when: "{expression}"', who)

    @pytest.mark.parametrize("value", ["user,admin", "user , admin", "admin,user"])
    def test_cve_2026_26308_a_value_joined_by_commas_is_found(self, value: str) -> None:
        asked: dict[str, Any] = {"headers": [("x-role", value)]}
        assert denied("when: \"headers['x-role'].exists(v, v == 'admin')\"", **asked)
        assert denied(f"when: \"headers['x-role'][0] == '{value}'\"", **asked)
        assert not allowed("when: \"headers['x-role'] == ['admin']\"", **asked)

    @pytest.mark.parametrize("path", ["/%61dmin/x", "/admin/x", "/%61%64min/%78"])
    def test_the_path_is_the_one_that_templates_see(self, path: str) -> None:
        assert denied("when: path.startsWith('/admin/')", path=path)
        assert denied("when: path == '/admin/x'", path=path)

    @pytest.mark.parametrize("path", ["/", "/a/", "/a/b/"])
    def test_a_slash_at_the_end_of_the_path_stays(self, path: str) -> None:
        assert denied(f"when: path == '{path}'", path=path)

    def test_claims_that_the_library_cannot_read_are_unknown(self) -> None:
        """Half a surrogate is JSON and no text: the rule fails, not the request."""
        who = caller(tenant="acme", other="\ud800")
        policy = """
rules: [{name: o, allow: anyone}, {name: r, MODE deny: authenticated, when: claims.tenant == 'x'}]
"""
        assert ask(policy.replace("MODE", ""), who).verdict.rule == "r"
        assert ask(policy.replace("MODE", "mode: shadow,"), who).verdict.rule == "o"

    def test_an_anonymous_caller_has_no_subject(self) -> None:
        """A rule that names an attribute the request lacks never allows."""
        assert not allowed("when: \"subject != 'mallory'\"")
        assert allowed("when: \"subject != 'mallory'\"", caller())

    def test_path_variables_are_those_of_the_template_that_covers_the_path(self) -> None:
        policy = """
rules:
  - name: own
    paths: ["/users/{id}", "/teams/{team}/users/{id}/{rest=**}"]
    allow: authenticated
    when: vars.id == subject
"""
        assert ask(policy, ALICE, path="/users/alice").verdict.status == 200
        assert ask(policy, ALICE, path="/users/bob").verdict.status == 403
        assert ask(policy, ALICE, path="/teams/x/users/alice/a/b").verdict.status == 200
        assert ask(policy, ALICE, path="/teams/alice/users/bob/a").verdict.status == 403

    def test_a_body_is_seen_as_json(self) -> None:
        asked: dict[str, Any] = {"headers": {"content-type": "application/json"}, "body": b'{"n": 3}'}
        assert allowed('when: "body.n < 5"', **asked)
        assert not allowed('when: "body.n < 2"', **asked)

    def test_conditions_on_the_request_alone_are_settled_without_a_credential(self) -> None:
        decision = ask("rules: [{name: r, allow: anyone, when: \"method == 'GET'\"}]", ALICE)
        assert (decision.verdict.status, decision.credential) == (200, "")

    def test_values_of_one_request_do_not_reach_the_next(self) -> None:
        policy = parse_policy("rules: [{name: r, allow: anyone, when: \"query['a'] == ['1']\"}]")
        condition = policy.rules[0].requests[0]
        assert condition.test(ANONYMOUS, request(path="/?a=1"), NOON) is True
        assert condition.test(ANONYMOUS, request(path="/"), NOON) is None

    def test_callers_kept_are_bounded(self) -> None:
        callers = Callers()
        for number in range(MAX_CALLERS + 5):
            callers.context(Identity(CredentialKind.JWT, str(number)))
        assert len(callers._known) == MAX_CALLERS

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ("claims.a ==", "is not a CEL expression"),
            ("claim.a == 1", "'claim' is unknown; known here: "),
            ("claims.a.lower() == 'x'", "the function 'lower' does not exist"),
            ("vars.id == subject", "vars.id: the path /** has no variable of that name"),
            ("", "expected a CEL expression"),
            ("'" + "a" * 5000 + "' == 'a'", "at most"),
            ("(" * 200 + "true" + ")" * 200, "is not a CEL expression"),
        ],
    )
    def test_an_error_is_found_when_the_policy_is_read(self, expression: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_policy(f'rules:\n  - name: r\n    allow: anyone\n    when: "{expression}"\n', "p.yaml")
        assert str(caught.value).startswith("p.yaml:4: rules[0].when: ")
        assert message in str(caught.value)

    def test_a_name_bound_by_a_macro_is_known(self) -> None:
        assert Expression("claims.a.all(x, claims.b.exists(y, x == y))").variables == ("claims",)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("claims.b == 1", "'b' does not exist"),
        ("claims.a > now", "values of incompatible kinds are compared or combined"),
        (
            "timestamp(claims.a) > now",
            "timestamp is undefined for this request, or does not take these values",
        ),
        ("peer == 'x'", "peer is undefined for this request, or does not take these values"),
        ("claims.a / 0 == 1", "it divides by zero"),
        ("[claims.a][1] == 1", "a list has no item 1"),
        ("int(path) == 1", "int() cannot read its value"),
        ("uint(claims.a - 5) == 1u", "a number is too large, or negative where it must not be"),
    ],
)
def test_why_an_expression_fails_is_explained_in_our_words(expression: str, why: str) -> None:
    rule = parse_policy(
        f"rules: [{{name: r, allow: anyone, when: '{expression.replace(chr(39), 2 * chr(39))}'}}]"
    ).rules[0]
    found = [*rule.requests, *rule.demands][-1].why(caller(a=1), request(path="/"), NOON)
    assert found.startswith(f"it fails: {why}; ")


class TestExplanation:
    """Each condition knows its text, and what it saw."""

    @pytest.mark.parametrize(
        ("condition", "text", "why"),
        [
            ("headers: {x-a: b}", "header x-a is 'b'", "c"),
            ("headers: {x-b: b}", "header x-b is 'b'", "nothing"),
            ("query: {q: {prefix: a}}", "query q begins with 'a'", "1"),
            ("client: [10.0.0.0/8]", "client is in 10.0.0.0/8", "192.0.2.1"),
            (
                "time: {zone: UTC, days: [mon-fri], from: '08:00', until: '18:00'}",
                "time is on mon-fri from 08:00 until 18:00 (UTC)",
                "Mon 2026-01-05 11:30:00 UTC",
            ),
            (
                "body: {a: {at_least: 1, at_most: 2}}",
                "body field a is at least 1 and is at most 2",
                "the body cannot be read: Envoy sends no bodies (with_request_body is not set)",
            ),
            ("when: \"method == 'PUT'\"", "when method == 'PUT'", "method = 'GET'"),
            (
                "when: 'claims.b == 1'",
                "when claims.b == 1",
                "it fails: 'b' does not exist; claims = {'a': 1}",
            ),
            ("caller: {roles: [x]}", "has role x", "staff"),
            ("caller: {claims: {a: 2}}", "claim a is 2", "1"),
        ],
    )
    def test_a_condition_says_what_it_asks_and_what_it_saw(self, condition: str, text: str, why: str) -> None:
        rule = parse_policy(f"rules: [{{name: r, allow: anyone, {condition}}}]").rules[0]
        found = [*rule.requests, *rule.demands][-1]
        asked = request(path="/?q=1", headers={"x-a": "c"})
        assert (found.text, found.why(caller(a=1), asked, NOON)) == (text, why)
