from pathlib import Path

import pytest

from authz.policy.compile.load import load_policy, parse_policy
from authz.tools.suites.coverage import Coverage
from authz.tools.suites.load import load_suites
from authz.tools.suites.run import CaseResult, Runner
from common.configfile import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"
POLICY = """
rules:
  - {name: office, paths: [/desk], client: [10.0.0.0/8], allow: {scopes: [read]}}
  - {name: mondays, paths: [/desk], mode: shadow, deny: authenticated, time: {zone: UTC, days: [mon]}}
"""


def run(folder: Path, suite: str, policy: str = POLICY) -> list[CaseResult]:
    file = folder / "suite.yaml"
    file.write_text(suite)
    runner = Runner(parse_policy(policy))
    return [runner.run(case) for one in load_suites([file]) for case in one.cases]


def answered(result: CaseResult) -> list[tuple[str, str, str]]:
    return [(one.what, one.expected, one.got) for one in result.differences]


DESK = "requests: {path: /desk, client: 10.0.0.1}, callers: {subject: al, scopes: [read]}"


@pytest.mark.parametrize(
    ("expect", "differences"),
    [
        ("allow", []),
        ("{outcome: allow, rule: office, status: 200, reason: allowed}", []),
        ("deny", [("outcome", "deny", "allow")]),
        ("{outcome: allow, rule: other}", [("rule", "other", "office")]),
        ("{outcome: allow, status: 403}", [("status", "403", "200")]),
        ("{outcome: allow, headers: {x-auth-subject: al, x-auth-issuer: null}}", []),
        ("{outcome: allow, headers: {x-auth-subject: null}}", [("header x-auth-subject", "nothing", "al")]),
        ("{outcome: allow, removed_headers: [x_auth_subject]}", []),
        (
            "{outcome: allow, removed_headers: [x-other]}",
            [("removed header x-other", "removed", "left alone")],
        ),
        ("{outcome: allow, metadata: {subject: al}}", []),
        ("{outcome: allow, metadata: {subject: bo}}", [("metadata subject", "bo", "al")]),
        ("{outcome: allow, shadow: deny}", [("shadow", "deny", "nothing")]),
    ],
)
def test_only_what_is_expected_is_compared(
    tmp_path: Path, expect: str, differences: list[tuple[str, str, str]]
) -> None:
    (result,) = run(tmp_path, f"tests: [{{{DESK}, expect: {expect}}}]")
    assert answered(result) == differences


def test_the_clock_is_that_of_the_suite_or_of_the_test(tmp_path: Path) -> None:
    shadow = "{outcome: allow, shadow: deny, shadow_rule: mondays}"
    results = run(
        tmp_path,
        f"now: 2026-03-02T10:00:00Z\ntests:\n- {{{DESK}, expect: {shadow}}}\n"
        f"- {{{DESK}, now: 2026-03-03T10:00:00Z, expect: {shadow}}}",
    )
    assert [result.passed for result in results] == [True, False]


def test_every_request_is_made_by_every_caller(tmp_path: Path) -> None:
    suite = """
requests: {desk: {path: /desk, client: 10.0.0.1}, far: {path: /desk}}
callers: {al: {subject: al, scopes: [read]}}
tests: [{requests: [desk, far], callers: [al, anonymous], expect: deny}]
"""
    results = run(tmp_path, suite)
    names = [(one.case.request_name, one.case.caller_name, one.passed) for one in results]
    assert names == [
        ("desk", "al", False),
        ("desk", "anonymous", True),
        ("far", "al", True),
        ("far", "anonymous", True),
    ]


def test_a_refused_credential_is_refused(tmp_path: Path) -> None:
    suite = "tests: [{requests: {path: /desk, client: 10.0.0.1}, callers: {refused: token_expired}, expect: "
    suite += "{outcome: deny, status: 401, reason: token_expired, body_contains: expired, "
    suite += "response_headers: {content-type: application/problem+json}}}]"
    assert answered(run(tmp_path, suite)[0]) == []


def test_a_request_is_judged_as_it_is_written(tmp_path: Path) -> None:
    """Nothing is made canonical on the way: the spelling is what the test is about."""
    suite = "tests: [{requests: [{path: //desk}, {path: '/a/../desk'}, {host: 'a,b'}], expect: "
    suite += "{outcome: deny, status: 400}}]"
    assert all(result.passed for result in run(tmp_path, suite))


@pytest.mark.parametrize(
    ("suite", "problem"),
    [
        ("tests: [{requests: {path: /}, expect: maybe}]", "1: tests[0].expect:"),
        (
            "tests:\n- {requests: desks, expect: deny}\nrequests: {desk: {}}",
            "2: tests[0].requests: 'desks' does not exist",
        ),
        ("tests:\n- {requests: {}, callers: al, expect: deny}", "2: tests[0].callers: 'al' does not exist"),
        ("tests: [{requests: {path: /, url: /}, expect: deny}]", "write either url, or host and path"),
        ("tests: [{requests: {headers: {X-A: b}}, expect: deny}]", "in lower case"),
        ("tests: [{requests: {}, callers: {refused: x}, expect: deny}]", "1: tests[0].callers"),
        ("tests: []", "1: tests:"),
        ("test: [{}]", "did you mean"),
    ],
)
def test_a_mistake_in_a_suite_is_reported_with_its_line(tmp_path: Path, suite: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, suite)
    assert any(problem in str(one) for one in caught.value.problems), caught.value


def test_every_mistake_of_every_suite_is_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("tests: [{requests: x, callers: y, expect: deny}]")
    with pytest.raises(ConfigError) as caught:
        load_suites([tmp_path])
    assert len(caught.value.problems) == 4


def coverage(policy: str, results: list[CaseResult]) -> Coverage:
    covered = Coverage(parse_policy(policy))
    for result in results:
        covered.add(result.explanation)
    return covered


def test_coverage_counts_rules_that_applied_and_conditions_both_ways(tmp_path: Path) -> None:
    covered = coverage(POLICY, run(tmp_path, f"tests: [{{{DESK}, expect: allow}}]"))
    office, mondays = covered.rules
    assert (office.applied, mondays.applied) == (1, 0)
    assert office.missing == [
        "never false: client is in 10.0.0.0/8",
        "never false: has scopes read",
    ]
    assert office.points == (3, 5)


def test_a_policy_that_is_tested_both_ways_is_covered(tmp_path: Path) -> None:
    policy = "rules: [{name: a, paths: [/a], allow: {scopes: [read]}}]"
    suite = "tests: [{requests: {path: /a}, callers: [{scopes: [read]}, {scopes: [write]}], expect: allow}]"
    covered = coverage(policy, run(tmp_path, suite, policy))
    assert covered.percent == 100


def test_without_cases_nothing_is_covered() -> None:
    assert Coverage(parse_policy(POLICY)).percent == 0


def test_the_example_suites_pass_and_cover_the_example_policy() -> None:
    policy = load_policy([EXAMPLES / "policy.yaml"])
    covered, runner = Coverage(policy), Runner(policy)
    for suite in load_suites([EXAMPLES / "policy-tests"]):
        for case in suite.cases:
            result = runner.run(case)
            covered.add(result.explanation)
            assert answered(result) == [], case
    assert covered.percent == 100
