"""A deny rule applies to every reading of a path that an upstream may have."""

import pytest

from authz.policy.compile.load import parse_policy
from authz.policy.types.paths import PathMatching
from common.configfile import ConfigError
from tests.support.asking import ask

POLICY = """
rules:
  - {name: open, paths: ["/**"], allow: anyone, accept_in_path: [OPTED]}
  - {name: closed, paths: ["/admin/**"], deny: anyone}
  - {name: expression, paths: ["/**"], deny: anyone, when: "WHEN"}
"""


READ_AS_SECRET = (
    ("//host/secret/x", "empty_segment"),
    ("///secret/x", "empty_segment"),
    ("//host//secret/x", "empty_segment"),
    ("/secret//x", "empty_segment"),
    ("/secret%2fx", "encoded_slash"),
    ("/%2fhost/secret/x", "encoded_slash"),
    ("/secret\\x", "backslash"),
    ("/\\host/secret/x", "backslash"),
    ("/secret;v=1/x", "parameters"),
    ("/%2573ecret/x", "double_encoding"),
)


class TestPaths:
    @pytest.mark.parametrize(("path", "anomaly"), READ_AS_SECRET)
    @pytest.mark.parametrize(
        "when",
        [
            "path == '/secret/x'",
            "path.startsWith('/secret/')",
            "segments[0] == 'secret'",
            "size(segments) == 2 && segments == ['secret', 'x']",
        ],
    )
    def test_an_expression_that_denies_sees_every_reading(self, path: str, anomaly: str, when: str) -> None:
        policy = POLICY.replace("OPTED", anomaly).replace("WHEN", when)
        assert ask(policy, path=path).verdict.rule == "expression"

    @pytest.mark.parametrize(("path", "anomaly"), READ_AS_SECRET)
    def test_a_template_that_denies_sees_every_reading(self, path: str, anomaly: str) -> None:
        policy = POLICY.replace("OPTED", anomaly).replace("WHEN", "path == '/none'")
        path = path.replace("secret", "admin").replace("%2573ecret", "%2561dmin")
        assert ask(policy, path=path).verdict.rule == "closed"

    @pytest.mark.parametrize("path", ["/users//alice", "//host/users/alice", "//users/alice"])
    def test_variables_are_those_of_every_reading(self, path: str) -> None:
        policy = """
rules:
  - {name: open, paths: ["/**"], allow: anyone, accept_in_path: [empty_segment]}
  - {name: r, paths: ["/users/{user}"], deny: anyone, when: vars.user == 'alice'}
"""
        assert ask(policy, path=path).verdict.rule == "r"
        assert ask(policy, path=path.replace("alice", "bob")).verdict.rule == "open"

    def test_an_allow_rule_is_met_by_all_readings_that_its_paths_cover(self) -> None:
        policy = """
rules:
  - {name: r, paths: ["/f/{rest=**}"], allow: anyone, accept_in_path: [parameters], when: vars.rest != 'x'}
"""
        assert ask(policy, path="/f/y;v").verdict.status == 200
        assert ask(policy, path="/f/x;v").verdict.status == 403

    def test_a_path_with_too_many_readings_is_refused(self) -> None:
        policy = POLICY.replace("OPTED", "empty_segment").replace("WHEN", "path == '/x'")
        assert ask(policy, path="//a" * 3_000).verdict.reason == "path_empty_segment"


OPEN_THEN_DENY = """
paths: {SETTING: ignore}
rules:
  - {name: open, paths: ["/**"], allow: anyone}
  - {name: closed, paths: [/admin, "/Users/{user}/Keys"], deny: anyone}
  - {name: ends, paths: [/end/], deny: anyone}
  - {name: members, paths: ["/teams/{team}"], deny: anyone, when: "vars.team == 'Acme' || path == '/teams/x'"}
  - {name: trial, paths: ["/try/**"], deny: anyone, mode: shadow}
"""


class TestSpelling:
    """Express, koa-router and others serve `/admin` for `/ADMIN` and `/admin/`."""

    @pytest.mark.parametrize(
        ("path", "rule"),
        [
            ("/admin", "closed"),
            ("/ADMIN", "closed"),
            ("/%41dmin", "closed"),
            ("/users/Bob/keys", "closed"),
            ("/USERS/Bob/KEYS", "closed"),
            ("/Teams/Acme", "members"),
            ("/TEAMS/X", "members"),
            ("/teams/other", "open"),
            ("/admin/x", "open"),
            ("/adminx", "open"),
        ],
    )
    def test_letter_case_does_not_count_for_what_denies(self, path: str, rule: str) -> None:
        policy = OPEN_THEN_DENY.replace("SETTING", "case")
        assert ask(policy, path=path).verdict.rule == rule

    @pytest.mark.parametrize(
        ("path", "rule"),
        [
            ("/admin/", "closed"),
            ("/Users/b/Keys/", "closed"),
            ("/teams/Acme/", "members"),
            ("/teams/", "members"),
            ("/teams", "open"),
            ("/end", "ends"),
            ("/end/", "ends"),
            ("/ADMIN", "open"),
        ],
    )
    def test_a_slash_at_the_end_does_not_count(self, path: str, rule: str) -> None:
        assert ask(OPEN_THEN_DENY.replace("SETTING", "trailing_slash"), path=path).verdict.rule == rule

    def test_without_the_setting_both_count(self) -> None:
        policy = OPEN_THEN_DENY.replace("paths: {SETTING: ignore}", "")
        assert ask(policy, path="/ADMIN").verdict.rule == "open"
        assert ask(policy, path="/admin/").verdict.rule == "open"

    def test_what_allows_is_never_widened(self) -> None:
        policy = (
            "paths: {case: ignore, trailing_slash: ignore}\nrules: [{name: r, paths: [/a], allow: anyone}]"
        )
        assert ask(policy, path="/a").verdict.status == 200
        for path in ("/A", "/a/"):
            assert ask(policy, path=path).verdict.reason == "no_rule"

    def test_shadow_rules_apply_to_other_spellings(self) -> None:
        decision = ask(OPEN_THEN_DENY.replace("SETTING", "case"), path="/TRY/x")
        assert decision.verdict.rule == "open"
        assert decision.shadow is not None
        assert decision.shadow.rule == "trial"

    def test_both_settings_and_an_anomaly_together(self) -> None:
        policy = """
paths: {case: ignore, trailing_slash: ignore}
rules:
  - {name: open, paths: ["/**"], allow: anyone, accept_in_path: [empty_segment]}
  - {name: closed, paths: ["/admin/x"], deny: anyone}
"""
        for path in ("/ADMIN/x/", "//ADMIN//X", "//host/Admin/x/", "/admin/X"):
            assert ask(policy, path=path).verdict.rule == "closed", path

    def test_the_same_request_is_judged_the_same_twice(self) -> None:
        policy = parse_policy(OPEN_THEN_DENY.replace("SETTING", "case"))
        rule_set = policy.index.find("api.example.com", "GET", ("ADMIN",))
        merged = [
            policy.index.with_denials(rule_set, "api.example.com", "GET", [("admin",)]) for _ in range(2)
        ]
        assert merged[0] is merged[1]
        assert policy.matching == PathMatching(any_case=True)

    @pytest.mark.parametrize("said", ["{case: no}", "{cases: ignore}", "ignore"])
    def test_what_the_setting_does_not_know_is_refused(self, said: str) -> None:
        with pytest.raises(ConfigError):
            parse_policy(f"paths: {said}\nrules: []")
