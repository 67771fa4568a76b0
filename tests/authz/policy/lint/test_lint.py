"""Deny rules that cannot mean what they say: warned of, never refused."""

import pytest

from authz.policy.compile.load import parse_policy

CREDENTIALS = "credentials: {api_keys: {keys: [], file: keys.yaml}}\n"


def warnings(*rules: str) -> list[tuple[str, str]]:
    text = "".join(f"  - {{name: r{number}, {rule}}}\n" for number, rule in enumerate(rules))
    return [
        (one.key_path, one.message) for one in parse_policy(f"rules:\n{text}{CREDENTIALS}", "p.yaml").warnings
    ]


ANYONE = "denies anyone all of it"
SAME = "denies all of it on the same conditions"


@pytest.mark.parametrize(
    ("broad", "narrow", "warned"),
    [
        ("paths: ['/x/**'], deny: anyone", "paths: [/x/y], deny: anyone", ANYONE),
        ("paths: ['/x/**'], deny: anyone", "paths: [/x/y], deny: {kinds: [api_key]}", ANYONE),
        ("paths: ['/x/**'], deny: anyone", "paths: [/x/y], deny: anyone, client: 10.0.0.0/8", ANYONE),
        ("paths: ['/x/**'], deny: anyone", "paths: [/y], deny: anyone", ""),
        ("paths: ['/x/**'], deny: anyone, methods: [GET]", "paths: [/x/y], deny: anyone", ""),
        ("paths: ['/x/**'], deny: anyone, mode: shadow", "paths: [/x/y], deny: anyone", ""),
        ("paths: ['/x/**'], deny: anyone", "paths: [/x/y], deny: anyone, mode: shadow", ""),
        ("paths: ['/x/**'], deny: anyone, client: 10.0.0.0/8", "paths: [/x/y], deny: anyone", ""),
        ("paths: ['/x/**'], deny: {roles: [a]}", "paths: [/x/y], deny: {roles: [a]}", SAME),
        ("paths: ['/x/**'], deny: {roles: [a]}", "paths: [/x/y], deny: {roles: [b]}", ""),
        ("paths: ['/x/**'], deny: {roles: [a]}", "paths: [/x/y], deny: anyone", ""),
        (
            "paths: ['/x/**'], deny: {roles: [a]}, query: {q: b}",
            "paths: [/x/y], deny: {roles: [a]}, query: {q: b}",
            SAME,
        ),
        ("paths: ['/x/**'], deny: anyone, query: {q: b}", "paths: [/x/y], deny: anyone, query: {q: b}", SAME),
        ("paths: ['/x/**'], deny: {roles: [a]}, query: {q: b}", "paths: [/x/y], deny: {roles: [a]}", ""),
        ("paths: ['/x/**'], deny: {roles: [a]}, mode: shadow", "paths: [/x/y], deny: {roles: [a]}", ""),
    ],
)
def test_a_denial_that_another_makes_needless_is_warned_of(broad: str, narrow: str, warned: str) -> None:
    first = [("rules[1]", f"adds nothing: 'r0' (p.yaml:2) {warned}")] if warned else []
    assert warnings(broad, narrow) == first
    second = [("rules[0]", f"adds nothing: 'r1' (p.yaml:3) {warned}")] if warned else []
    assert warnings(narrow, broad) == second


def test_what_is_the_same_in_words_only_is_not_the_same() -> None:
    assert not warnings("deny: {subjects: [a or b]}", "paths: [/x], deny: {subjects: [a, b]}")
    assert not warnings(
        "paths: ['/{id}/**'], deny: anyone, when: vars.id == 'y'",
        "paths: ['/x/{id}'], deny: anyone, when: vars.id == 'y'",
    )


@pytest.mark.parametrize(
    "rule",
    [
        "deny: anyone",
        "deny: {roles: [a]}",
        "allow: {roles: [a]}",
        "deny: anyone, client: 10.0.0.0/8",
        "paths: ['/x/{id}'], deny: anyone, when: vars.id == 'y'",
    ],
)
def test_of_rules_that_are_the_same_only_the_later_are_warned_of(rule: str) -> None:
    found = warnings(rule, rule, rule)
    assert [(place, message.split(" (")[0]) for place, message in found] == [
        ("rules[1]", "adds nothing: 'r0'"),
        ("rules[2]", "adds nothing: 'r0'"),
    ]


def test_the_rules_that_add_nothing_can_all_go_at_once() -> None:
    """The first covers the others, and they together cover it: it is what stays."""
    found = warnings(
        "paths: [/a, /b], deny: anyone", "paths: [/a], deny: anyone", "paths: [/b], deny: anyone"
    )
    assert [place for place, _ in found] == ["rules[1]", "rules[2]"]


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        ("deny: {roles: [a]}, answer: {status: 404}", "deny: {roles: [a]}", ["rules[1]"]),
        ("paths: [/x], deny: {roles: [a]}, answer: {status: 404}", "deny: {roles: [a]}", []),
        ("paths: [/x], deny: {roles: [a]}", "deny: {roles: [a]}, answer: {detail: Go away.}", []),
        ("paths: [/x], deny: {roles: [a]}, answer: {status: 404}", "deny: anyone", ["rules[0]"]),
        ("paths: [/x], deny: anyone, answer: {status: 404}", "deny: anyone", []),
        (
            "paths: [/x], deny: anyone, answer: {status: 503, retry_after_seconds: 9}",
            "deny: anyone, answer: {status: 503}",
            [],
        ),
        ("paths: [/x], deny: anyone, client: 10.0.0.0/8, answer: {status: 404}", "deny: anyone", []),
    ],
)
def test_a_denial_whose_own_answer_clients_get_adds_something(
    first: str, second: str, warned: list[str]
) -> None:
    """Where a rule denies anyone, none that looks at the caller answers; among others the first does."""
    assert [place for place, _ in warnings(first, second)] == warned
