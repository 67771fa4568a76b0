"""Rules that load and match less or more than their words: each is warned of, with its place."""

import pytest

from authz.policy.compile.load import parse_policy
from tests.support.asking import ask, caller

CREDENTIALS = "credentials: {api_keys: {file: keys.yaml}}"


def warnings(rule: str) -> list[str]:
    policy = parse_policy(f"rules:\n  - {{name: r, {rule}}}\n{CREDENTIALS}", "p.yaml")
    assert all((one.file, one.line) == ("p.yaml", 2) for one in policy.warnings)
    return [one.message for one in policy.warnings]


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ("allow: {claims: {admin: 'true'}}", 'the text "true", which is not true'),
        ("deny: {claims: {level: ['5', '6x']}}", 'the text "5", which is not 5'),
        ("deny: {claims: {level: {not_one_of: ['5']}}}", 'the text "5"'),
        ("allow: authenticated, caller: {claims: {admin: {contains: 'True'}}}", 'the text "True"'),
        ("deny: anyone, body: {admin: 'false'}", 'body field admin is compared with the text "false"'),
        ("deny: anyone, when: \"claims.admin == 'true'\"", "claims.admin is compared with"),
        ("deny: anyone, when: \"'5' != claims.a['level']\"", "claims.a['level'] is compared with"),
        ("deny: anyone, when: \"claims.level in ['5', 'x']\"", 'the text "5"'),
        ("deny: anyone, when: \"'true' in claims.flags\"", 'the text "true"'),
        ("deny: anyone, when: \"claims.levels[0] == '5'\"", "claims.levels[0] is compared with"),
        ("deny: anyone, when: \"claims.level in ['5', '6x', 6]\"", 'the text "5"'),
        ("allow: anyone, when: host.startsWith('api')", "also true for api.evil.example"),
        ("allow: anyone, when: host.startsWith('api.')", "also true for api.evil.example"),
        ("deny: anyone, when: issuer.startsWith('https://idp.example')", "the host to its end"),
        ("allow: anyone, when: peer.startsWith('spiffe://prod')", "'spiffe://prod/'"),
        ("allow: anyone, when: client.startsWith('10.1')", "also true for other addresses"),
        ("allow: anyone, when: \"client.matches('10.0')\"", "also true for other addresses"),
        ("deny: anyone, client: '::/0'", "contains no IPv4 client"),
        (
            "allow: anyone, client_not: ['::/64', '2001:db8::/32']",
            "client_not: ::/64 contains no IPv4 client",
        ),
        ("allow: anyone, when: \"host.matches('example.com')\"", "wherever the host contains this"),
        ("allow: anyone, when: \"host.matches('^api[.]example[.]com')\"", "wherever the host contains this"),
        ("allow: anyone, when: \"host.matches('^a$|b')\"", "wherever the host contains this"),
        ("allow: anyone, when: \"host.matches('^a|b$')\"", "wherever the host contains this"),
        ("allow: anyone, when: \"host.matches('^api.example[.]com$')\"", "any character"),
        (
            "deny: anyone, when: \"issuer.matches('https://idp[.]example')\"",
            "wherever the issuer contains this",
        ),
        ("allow: anyone, when: host.endsWith('example.com')", "also true for evilexample.com"),
        ("allow: anyone, when: host.contains('example.com')", "also true for example.com.evil.example"),
        ("deny: anyone, when: \"client.startsWith('::ffff:10.')\"", "like 192.0.2.1"),
        ("deny: anyone, when: client == '::FFFF:10.0.0.1'", "like 192.0.2.1"),
    ],
)
def test_what_matches_less_or_more_than_it_says_is_warned_of(rule: str, warning: str) -> None:
    [message] = warnings(rule)
    assert warning in message


@pytest.mark.parametrize(
    "rule",
    [
        "allow: {claims: {admin: true}}",
        "allow: {claims: {admin: [true, 'true']}}",
        "allow: {claims: {level: [5, '5']}}",
        "allow: {claims: {tenant: '5a'}}",
        "allow: authenticated, when: claims.tenant == 'acme'",
        "allow: authenticated, when: \"host.matches('^(a|b)[.]example[.]com$')\"",
        "allow: authenticated, when: \"host.matches('(?i)^[a-z.]+[.]example[.]com$')\"",
        "allow: authenticated, when: \"host.matches('\\\\\\\\Aa\\\\\\\\.b\\\\\\\\z')\"",
        "allow: authenticated, when: host.endsWith('.example.com')",
        "allow: authenticated, when: path.matches('a')",
        "allow: {claims: {ver: '2.0', acr: ['1', '2']}}",
        "allow: authenticated, when: \"claims.acr == '2' || claims['ver'] != '1.0'\"",
        "allow: authenticated, when: claims.admin == 'true' || claims.admin == true",
        "allow: authenticated, when: 5 == claims.level || claims.level == '5'",
        "allow: authenticated, when: claims.host.endsWith('example.com')",
        "allow: authenticated, when: claims.client == '::ffff:10.0.0.1'",
        "allow: authenticated, when: \"has(body.claims) && body.claims.a == 'true'\"",
        "allow: authenticated, when: client.startsWith('10.')",
        "allow: authenticated, when: \"client.matches('^10[.]0[.]0[.][12]$')\"",
        "allow: authenticated, when: peer.startsWith('spiffe://prod/')",
        "allow: authenticated, when: subject.startsWith('svc-')",
        "allow: authenticated, when: claims.client.startsWith('10.1')",
        "allow: authenticated, client: ['::/0', 0.0.0.0/0]",
        "allow: authenticated, client: '2001:db8::/32'",
        "allow: authenticated, when: \"'admin' in claims.groups\"",
        "allow: authenticated, when: \"claims.level in ['5', 5]\"",
        "allow: authenticated, when: \"'5' in claims.levels || 5 in claims.levels\"",
        "allow: authenticated, when: \"claims.acr in ['1', '2']\"",
    ],
)
def test_what_means_what_it_says_is_not(rule: str) -> None:
    assert not warnings(rule)


def test_the_doubts_of_a_condition_are_those_of_each_rule_that_names_it() -> None:
    text = """
conditions: {office: {when: "host.endsWith('example.com')"}}
rules:
  - {name: r, allow: authenticated, if: office}
"""
    [warning] = parse_policy(text, "p.yaml").warnings
    assert (warning.line, "evilexample.com" in warning.message) == (4, True)


@pytest.mark.parametrize(
    ("asked", "claims"),
    [
        ("{suspended: true}", {"suspended": "true"}),
        ("{suspended: 'true'}", {"suspended": True}),
        ("{level: 5}", {"level": "5"}),
        ("{groups.name: bad}", {"groups": [{"name": "bad"}]}),
        ("{groups.name: {present: true}}", {"groups": [{"name": "bad"}]}),
    ],
)
def test_a_claim_that_may_be_what_is_denied_denies(asked: str, claims: dict[str, object]) -> None:
    """In another type, or below a list."""
    policy = f"rules: [{{name: o, allow: anyone}}, {{name: r, deny: {{claims: {asked}}}}}]"
    assert ask(policy, caller(**claims)).verdict.rule == "r"
    assert ask(policy, caller(other=1)).verdict.rule == "o"
    allowing = f"rules: [{{name: r, allow: {{claims: {asked}}}}}]"
    assert ask(allowing, caller(**claims)).verdict.status == 403


OPEN = '{name: open, paths: ["/**"], allow: anyone}'


def escapes(*rules: str, head: str = "") -> list[tuple[int, str]]:
    text = f"{head}\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules)
    warned = parse_policy(text, "p.yaml").warnings
    return [(one.line, one.message) for one in warned if "does not deny" in one.message]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("{name: r, paths: [/admin], deny: anyone}", "/ADMIN"),
        ('{name: r, paths: ["/admin/**"], deny: anyone}', "/ADMIN/x"),
        ('{name: r, paths: ["/{team}/Keys/**"], deny: {roles: [a]}}', "/x/kEYS/x"),
        ("{name: r, paths: [/7], deny: anyone}", "/7/"),
        ('{name: r, paths: ["/7/{id}"], deny: anyone}', "/7/x/"),
        ("{name: r, hosts: [a.example], methods: [GET], paths: [/x], deny: anyone}", "/X"),
        ("{name: r, paths: [/x], deny: anyone, client: 10.0.0.0/8}", "/X"),
    ],
)
def test_a_deny_rule_that_another_spelling_gets_around_is_warned_of(rule: str, path: str) -> None:
    [(line, message)] = escapes(OPEN, rule)
    assert line == 4
    assert message.startswith(f"does not deny {path}, which 'open' (p.yaml:3) allows")


@pytest.mark.parametrize(
    ("when", "text"),
    [
        ("path.startsWith('/admin')", "/admin"),
        ("method == 'GET' && path == '/Admin'", "/Admin"),
        ("segments[0] == 'admin'", "admin"),
        ("segments[0].startsWith('admin')", "admin"),
        ("'admin' in segments", "admin"),
        ("path in ['/7', '/x']", "/x"),
        ("path.matches('^/admin')", "^/admin"),
        ("!(path != '/admin')", "/admin"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_so_is_an_expression_that_compares_a_path(when: str, text: str, named: bool) -> None:
    rule = '{name: r, deny: anyone, CONDITION: "WHEN"}'.replace("WHEN", "c" if named else when)
    head = f'conditions: {{c: {{when: "{when}"}}}}' if named else ""
    rule = rule.replace("CONDITION", "if" if named else "when")
    warned = parse_policy(f"{head}\nrules:\n  - {OPEN}\n  - {rule}\n", "p.yaml").warnings
    [(line, message)] = [(one.line, one.message) for one in warned if "letter case" in one.message]
    assert line == 4
    assert message.startswith(f"compares a path with {text!r}")
    assert ("case: ignore} and '/admin'" in message) == (text == "/Admin")
    for setting in ("ignore", "exact"):
        settled = f"paths: {{case: {setting}}}\n{head}\nrules:\n  - {OPEN}\n  - {rule}\n"
        assert not [one for one in parse_policy(settled).warnings if "letter case" in one.message]


@pytest.mark.parametrize(
    "when",
    [
        "path == '/7'",
        "host == 'a.example'",
        "vars.x == 'a'",
        "!path.startsWith('/7/public')",
        "path != '/7/public'",
        "path.matches('(?i)^/7/a')",
        "roles.exists(path, path == 'a')",
    ],
)
def test_what_has_no_letters_or_no_path_or_allows_by_case_is_not(when: str) -> None:
    rule = f'{{name: r, paths: ["/7/{{x}}"], deny: anyone, when: "{when}"}}'
    warned = parse_policy(f"rules:\n  - {OPEN}\n  - {rule}\n", "p.yaml").warnings
    assert not [one for one in warned if "letter case" in one.message]


def test_nor_is_one_that_another_rule_denies_all_the_same() -> None:
    rules = [OPEN, "{name: all, deny: anyone}", "{name: r, deny: anyone, when: path == '/admin'}"]
    text = "rules:\n" + "".join(f"  - {rule}\n" for rule in rules)
    assert not [one for one in parse_policy(text).warnings if "letter case" in one.message]


@pytest.mark.parametrize(
    ("rule", "other", "head"),
    [
        ("{name: r, paths: [/admin], deny: anyone}", OPEN, "paths: {case: ignore, trailing_slash: ignore}"),
        ("{name: r, paths: [/admin], deny: anyone}", OPEN, "paths: {case: exact, trailing_slash: exact}"),
        ('{name: r, paths: ["/admin/**"], deny: anyone}', OPEN, "paths: {case: exact}"),
        ('{name: r, paths: ["/7/**"], deny: anyone}', OPEN, ""),
        ("{name: r, deny: anyone, client: 10.0.0.0/8}", OPEN, ""),
        ("{name: r, paths: [/x], deny: anyone, mode: shadow}", OPEN, ""),
        ("{name: r, paths: [/x], deny: anyone}", '{name: o, paths: ["/y/**"], allow: anyone}', ""),
        ('{name: r, paths: ["/x/a"], deny: anyone}', '{name: o, paths: ["/x/a"], allow: anyone}', ""),
        ("{name: r, hosts: [a.b], paths: [/x], deny: anyone}", "{name: o, hosts: [c.b], allow: anyone}", ""),
    ],
)  # fmt: skip
def test_what_no_spelling_gets_around_is_not(rule: str, other: str, head: str) -> None:
    assert not escapes(other, rule, head=head)


def test_a_setting_for_one_leaves_the_other_required() -> None:
    [(_, message)] = escapes(OPEN, "{name: r, paths: [/x], deny: anyone}", head="paths: {case: ignore}")
    assert "/x/" in message
    assert "trailing_slash: ignore" in message
