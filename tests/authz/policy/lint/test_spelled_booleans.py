"""The country NO is false to YAML: where anything may be compared, only a warning tells."""

import pytest

from authz.policy.compile.load import parse_policy


def warnings(text: str) -> list[tuple[int, str, str]]:
    found = parse_policy(text, "p.yaml").warnings
    return [(one.line, one.key_path, one.message) for one in found if "YAML" in one.message]


@pytest.mark.parametrize(
    ("rule", "key", "message"),
    [
        ("allow: {claims: {country: NO}}", "allow.claims.country", 'reads NO as false: write "NO" in quotes'),
        ("deny: {claims: {country: {equals: no}}}", "deny.claims.country.equals", "reads no as false"),
        ("deny: [{claims: {c: [DE, NO]}}]", "deny[0].claims.c[1]", "reads NO as false"),
        ("deny: anyone, body: {vip: Yes}", "body.vip", 'reads Yes as true: write "Yes" in quotes, or true'),
        ("allow: authenticated, caller: {claims: {beta: on}}", "caller.claims.beta", "reads on as true"),
    ],
)
def test_a_word_that_yaml_reads_as_true_or_false_is_warned_of(rule: str, key: str, message: str) -> None:
    [(line, path, text)] = warnings(f"rules:\n  - {{name: r, {rule}}}")
    assert (line, path) == (2, f"rules[0].{key}")
    assert message in text


@pytest.mark.parametrize(
    "rule",
    [
        "allow: {claims: {admin: true}}",
        "allow: {claims: {country: 'NO', a: {present: no}}}",
        "allow: {claims: {admin: TRUE, b: [true, False]}}",
        "allow: {claims: {admin: true}}, strip_session_cookie: no",
        "name: no guests, deny: {claims: {guest: true}}",
    ],
)
def test_what_is_meant_so_is_not(rule: str) -> None:
    rule = rule if rule.startswith("name:") else f"name: r, {rule}"
    assert not warnings(f"rules:\n  - {{{rule}}}")


def test_lists_over_lines_conditions_defaults_and_anchors_are_seen() -> None:
    text = """
conditions:
  nordic: &nordic
    caller:
      claims:
        country:
          - SE
          - NO
defaults:
  old: {body: {paid: off}}
rules:
  - {name: r, allow: authenticated, if: nordic, inherit: old}
"""
    assert [one[:2] for one in warnings(text)] == [
        (8, "conditions.nordic.caller.claims.country[1]"),
        (10, "defaults.old.body.paid"),
    ]
