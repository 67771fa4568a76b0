"""Includes, named conditions, defaults: what rules share, and only when they say so."""

from pathlib import Path

import pytest

from authz.policy.compile.load import load_policy, parse_policy
from common.configfile import ConfigError
from tests.support.asking import ask
from tests.support.callers import ALICE

POLICY = """
conditions:
  office: {client: [192.0.2.0/24]}
  staff: {caller: {roles: [staff]}}
defaults:
  team:
    if: [office]
    hosts: [api.example.com]
    methods: [GET]
    owner: team-a
    ticket: T-1
    headers: {x-team: a}
    identity_headers: {x-team-user: subject}
rules:
  - {name: plain, paths: [/plain], allow: anyone}
  - {name: office, paths: [/office], allow: anyone, if: office}
  - {name: staff, paths: [/staff], allow: anyone, if: [office, staff]}
  - {name: team, paths: [/team], allow: anyone, inherit: team}
  - {name: own, paths: [/own], allow: anyone, inherit: team, methods: [PUT], owner: me, headers: {x-own: b}}
  - {name: closed, paths: [/team/closed], deny: anyone, inherit: team}
"""


def test_a_named_condition_holds_for_the_rules_that_name_it() -> None:
    assert ask(POLICY, path="/office").verdict.status == 200
    assert ask(POLICY, path="/office", source="203.0.113.1").verdict.reason == "conditions_unmet"
    assert ask(POLICY, path="/plain", source="203.0.113.1").verdict.status == 200


def test_a_named_condition_may_speak_of_callers() -> None:
    assert ask(POLICY, path="/staff").verdict.reason == "credentials_missing"
    assert ask(POLICY, ALICE, path="/staff").verdict.status == 200


def test_an_unmet_condition_names_the_rule_and_asks_for_no_credential() -> None:
    verdict = ask(POLICY, path="/staff", source="203.0.113.1").verdict
    assert (verdict.status, verdict.reason, verdict.rule) == (403, "conditions_unmet", "staff")


def test_gateway_8781_nothing_is_inherited_unless_the_rule_says_so() -> None:
    rules = {rule.name: rule for rule in parse_policy(POLICY).rules}
    assert (rules["plain"].requests, rules["plain"].owner) == ((), "")
    assert (rules["team"].owner, rules["team"].ticket) == ("team-a", "T-1")


def test_inherited_conditions_add_up_and_other_keys_give_way() -> None:
    rules = {rule.name: rule for rule in parse_policy(POLICY).rules}
    assert [condition.text for condition in rules["own"].requests] == [
        "header x-team is 'a'",
        "client is in 192.0.2.0/24",
        "header x-own is 'b'",
    ]
    assert (rules["own"].owner, rules["own"].ticket) == ("me", "T-1")
    both = {"x-team": "a", "x-own": "b"}
    assert ask(POLICY, path="/own", method="PUT", headers=both).verdict.status == 200
    assert ask(POLICY, path="/own", method="GET", headers=both).verdict.reason == "no_rule"


def test_a_deny_rule_inherits_what_a_deny_rule_can_have() -> None:
    rules = {rule.name: rule for rule in parse_policy(POLICY).rules}
    assert rules["closed"].verdict.mutations.identity_headers == ()
    assert len(rules["closed"].requests) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "conditions: {office: {client: 10.0.0.0/8}}\nrules:\n  - {name: a, allow: anyone, if: [offize]}",
            "p.yaml:3: rules[0].if: 'offize' does not exist under conditions; did you mean 'office'?",
        ),
        (
            "rules:\n  - name: a\n    allow: anyone\n    inherit: team",
            "p.yaml:4: rules[0].inherit: 'team' does not exist under defaults",
        ),
        (
            "defaults:\n  team: {if: [x]}\n",
            "p.yaml:2: defaults.team.if: 'x' does not exist under conditions",
        ),
        ("conditions:\n  a: {}\n", "p.yaml:2: conditions.a: name at least one condition"),
        ("defaults:\n  a: {allow: anyone}\n", "p.yaml:2: defaults.a.allow: unknown key"),
        ("include: [x.yaml]\n", "p.yaml:1: include: include is not available here"),
    ],
)
def test_what_does_not_exist_is_an_error_at_its_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "p.yaml")
    assert str(caught.value).startswith(problem)


def test_what_no_rule_uses_is_warned_of() -> None:
    policy = parse_policy("conditions:\n  a: {client: 10.0.0.0/8}\ndefaults:\n  b: {owner: me}\n")
    assert [str(warning) for warning in policy.warnings] == [
        "<text>:2: conditions.a: no rule uses 'a'",
        "<text>:4: defaults.b: no rule uses 'b'",
    ]


def test_a_rule_that_allows_everything_is_warned_of() -> None:
    assert "anyone anything" in str(parse_policy("rules: [{name: a, allow: anyone}]").warnings[0])
    assert not parse_policy("rules: [{name: a, allow: anyone, hosts: [a.example]}]").warnings
    assert not parse_policy("rules: [{name: a, allow: anyone, client: 10.0.0.0/8}]").warnings


class TestInclude:
    def test_files_and_folders_are_relative_to_the_file_that_names_them(self, tmp_path: Path) -> None:
        (tmp_path / "teams").mkdir()
        (tmp_path / "main.yaml").write_text("include: [shared.yaml, teams]\nrules: []\n")
        (tmp_path / "shared.yaml").write_text("conditions: {office: {client: 192.0.2.0/24}}\n")
        (tmp_path / "teams" / "a.yaml").write_text(
            "include: ../shared.yaml\nrules: [{name: a, allow: anyone, paths: [/a], if: office}]\n"
        )
        policy = load_policy([tmp_path / "main.yaml"])
        assert [rule.name for rule in policy.rules] == ["a"]
        assert [file.name for file in policy.files] == ["main.yaml", "shared.yaml", "a.yaml"]

    def test_a_file_that_includes_itself_is_read_once(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text("include: a.yaml\nrules: [{name: a, allow: anyone, paths: [/a]}]\n")
        assert len(load_policy([file]).rules) == 1

    def test_what_is_not_there_is_an_error_where_it_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text("include:\n  - gone.yaml\n")
        with pytest.raises(ConfigError, match=r"a\.yaml:2: include\[0\]: gone\.yaml: no such file"):
            load_policy([file])
