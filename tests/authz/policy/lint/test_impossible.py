"""What a rule asks and no request can have is said when the policy is checked."""

import re

import pytest

from authz.policy.compile.load import parse_policy
from common.configfile import ConfigError

CREDENTIALS = """
credentials:
  issuers:
    - issuer: https://idp.example.com
      audiences: [api]
      jwks: {file: keys.json}
"""
NO_ISSUER = "it is not configured under credentials"


def warnings(rule: str, credentials: str = CREDENTIALS) -> list[tuple[str, str]]:
    policy = parse_policy(f"{credentials}\nrules:\n  - {{name: r, {rule}}}\n", "p.yaml")
    return [(one.key_path, one.message) for one in policy.warnings]


@pytest.mark.parametrize(
    ("rule", "key", "message"),
    [
        ("allow: {issuers: ['https://idp.example.org']}", "allow", "did you mean https://idp.example.com?"),
        (
            "deny: {issuers: [elsewhere]}",
            "deny",
            "it is not configured under credentials; configured: https://idp.example.com",
        ),
        ("allow: anyone, caller: {issuers: [x]}", "", NO_ISSUER),
        ("allow: authenticated, when: issuer == 'x'", "", NO_ISSUER),
        ("deny: anyone, when: \"issuer in ['x']\"", "", NO_ISSUER),
        (
            "deny: {kinds: [session]}",
            "deny",
            "never matches session: the policy accepts no credentials of that kind",
        ),
        ("deny: anyone, when: '1 == 2'", "", "never matches: when is 1 == 2"),
        (
            "deny: anyone, when: '1 / 0 == 2'",
            "",
            "denies everything it covers: when is 1 / 0 == 2",
        ),
        ("allow: authenticated, when: '1 / 0 == 2'", "", "never matches: when is 1 / 0 == 2"),
        ("deny: anyone, when: kind == 'session'", "", "never matches session"),
        ("allow: {subjects: ['*@example.com']}", "allow", "claims: {sub: {suffix: '@example.com'}}"),
        ("deny: anyone, methods: [CONNECT]", "methods", "never matches CONNECT"),
        ("deny: anyone, methods: [GTE]", "methods", "did you mean GET?"),
        ("deny: anyone, methods: [DELET]", "methods", "did you mean DELETE?"),
        (
            "deny: anyone, client: 10.0.0.0/8, client_not: [10.0.0.0/8]",
            "",
            "client_not excludes all of 10.0.0.0/8",
        ),
        (
            "deny: anyone, client: 10.1.0.0/16, client_not: [10.0.0.0/8]",
            "",
            "client_not excludes all of 10.1.0.0/16",
        ),
    ],
)
def test_what_no_request_can_have_is_warned_of(rule: str, key: str, message: str) -> None:
    [(path, found)] = warnings(rule)
    assert path == f"rules[0]{'.' if key else ''}{key}"
    assert message in found


@pytest.mark.parametrize(
    "rule",
    [
        "allow: {issuers: ['https://idp.example.com']}",
        "allow: authenticated, when: issuer == 'https://idp.example.com'",
        "deny: {kinds: [jwt]}",
        "deny: anyone, when: \"kind in ['jwt', 'anonymous']\"",
        "deny: anyone, methods: [PROPFIND, PURGE, M-SEARCH, LINK, LOCK, QUERY]",
        "allow: {subjects: ['a@example.com'], scopes: ['orders:*']}",
        "deny: anyone, when: '1 == 1'",
        "deny: anyone, client: [10.0.0.0/8, 192.0.2.0/24], client_not: [10.0.0.0/8]",
        "deny: anyone, client: 10.0.0.0/8, client_not: ['2000::/3']",
    ],
)
def test_what_some_request_can_have_is_not(rule: str) -> None:
    assert warnings(rule) == []


def test_networks_of_two_blocks_that_exclude_each_other() -> None:
    policy = parse_policy(
        "conditions: {inside: {client: 10.0.0.0/8}}\n"
        "rules: [{name: r, deny: anyone, if: inside, client: 192.0.2.0/24}]"
    )
    assert "no client is in 10.0.0.0/8 and in 192.0.2.0/24" in str(policy.warnings)


def test_a_deny_rule_for_callers_that_cannot_exist_is_reported() -> None:
    message = "never matches: the policy accepts no credentials, so every caller is anonymous"
    assert warnings("deny: {roles: [a]}", "") == [("rules[0].deny", message)]
    assert warnings("deny: anyone, caller: {roles: [a]}", "") == [("rules[0].deny", message)]
    assert warnings("deny: anyone", "") == []


def test_an_issuer_with_tenants_is_each_of_them() -> None:
    template = "idp.example.com/{tenantid}/v2.0\n      tenants: [t1, t2]"
    credentials = CREDENTIALS.replace("idp.example.com", template)
    assert warnings("deny: {issuers: ['https://idp.example.com/t1/v2.0']}", credentials) == []
    assert warnings("deny: {issuers: ['https://idp.example.com/t3/v2.0']}", credentials)


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/users/:id", "{id}"),
        ("/users/:user-id", "{user_id}"),
        ("/users/:id?", "{id}"),
        (r"/users/:id(\\d+)", "{id}"),
        ("/users/<id>", "{id}"),
        ("/users/<int:id>/x", "{id}"),
        ("/users/[id]", "{id}"),
    ],
)
def test_a_variable_as_other_routers_write_it_is_not_text(path: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f'rules: [{{name: r, paths: ["{path}"], deny: anyone}}]', "p.yaml")
    assert "p.yaml:1: rules[0].paths[0]: " in str(caught.value)
    assert f"a variable is written {right}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/users/{user-id}", "as in {user_id}"),
        ("/users/{id:[0-9]+}", "a variable has no pattern: write {id}"),
        ("/users/(a|b)", "a path is not a regular expression"),
        ("/users/[0-9]+", "a path is not a regular expression"),
        ("/users/.+", "a path is not a regular expression"),
        ("/users$", "a path is not a regular expression"),
    ],
)
def test_a_pattern_of_another_kind_is_not_text(path: str, right: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(right)):
        parse_policy(f'rules: [{{name: r, paths: ["{path}"], deny: anyone}}]')


@pytest.mark.parametrize(
    "path", ["/v1/users:batchGet", "/odata/$metadata", "/a/b:c", "/Products(5)", "/c++", "/a|b", "/v1.0+x"]
)
def test_a_colon_within_a_segment_is_text(path: str) -> None:
    assert parse_policy(f'rules: [{{name: r, paths: ["{path}"], allow: anyone}}]').rules


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("body: {n: {at_least: 5, at_most: 2}}", "nothing is at least 5 and at most 2"),
        ("time: {zone: UTC, after: 2026-02-01, before: 2026-01-01}", "before must be the later one"),
    ],
)
def test_bounds_that_exclude_each_other_are_an_error(condition: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f"rules: [{{name: r, deny: anyone, {condition}}}]")
    assert message in str(caught.value)
