from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from authz.policy.compile.load import load_policy, parse_policy
from authz.policy.model import PolicyFile
from common.configfile import ConfigError

RULE = "rules: [{name: %s, paths: [/a], allow: anyone}]\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "p.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_every_error_is_found_at_its_line() -> None:
    found = problems(
        """rules:
  - name: one
    paths: [users]
    allow: anyone
  - name: two
    hosts: ["a:80"]
    methods: [get]
    allow: anybody
  - nmae: three
    allow: {scope: [a]}
"""
    )
    assert [line.partition(" ")[0] for line in found] == [
        "p.yaml:3:",
        "p.yaml:6:",
        "p.yaml:7:",
        "p.yaml:8:",
        "p.yaml:9:",
        "p.yaml:9:",
        "p.yaml:10:",
    ]
    assert "begins with /" in found[0]
    assert "write GET" in found[2]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{name: a}", "either allow or deny"),
        ("{name: a, allow: anyone, deny: anyone}", "either allow or deny"),
        ("{name: a, allow: {}}", "say who"),
        ("{name: a, allow: []}", "at least one"),
        ("{name: a, allow: {scopes: []}}", "at least one"),
        ("{name: a, allow: {scopes: ['a b']}}", "as in orders:read"),
        ("{name: a, allow: {kinds: [anonymous]}}", "write anyone"),
        ("{name: a, allow: {kinds: [cookie]}}", "jwt"),
        ("{name: a, allow: {rolles: [x]}}", "did you mean 'roles'"),
        (
            "{name: a, deny: anyone, identity_headers: {x-a: subject}}",
            "identity_headers belongs to allow",
        ),
        ("{name: a, deny: anyone, query_remove: q, identify: never}", "identify and query_remove belong to"),
        ("{name: a, allow: anyone, methods: ['*']}", "a rule without methods covers all of them"),
        ("{name: a, allow: anyone, claims: {a: b}}", "unknown key; it belongs under allow, caller or deny"),
        ("{name: a, deny: anyone, status: 404}", "unknown key; it belongs under answer"),
        ("{name: a, allow: anyone, cors: {origins: ['*']}}", "wildcards are not supported"),
        ("{name: a, allow: anyone, cors: {origins: ['https://a.b/']}}", "has no path: write https://a.b"),
        ("{name: a, allow: anyone, headers: {x-a: true}}", "YAML does not read true as text"),
        ("{name: a, allow: anyone, identity_headers: {host: subject}}", "meaning of its own"),
        ("{name: a, allow: anyone, identity_headers: {x-envoy-a: subject}}", "meaning of its own"),
        ("{name: a, allow: anyone, identity_headers: {x-a-b-c-d-e: subject}}", "hyphens"),
        ("{name: a, allow: anyone, identity_headers: {X-A: subject}}", "as in x-auth-tenant"),
        ("{name: a, allow: anyone, accept_in_path: [dot_segment]}", "cannot be accepted"),
        ("{name: a, allow: anyone, accept_in_path: [nul]}", "cannot be accepted"),
        ("{name: a, allow: anyone, mode: dry}", "shadow"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_what_would(rule: str, message: str) -> None:
    found = problems(f"rules: [{rule}]")
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("allow: {scopes: }", "allow.scopes"),
        ("allow: {claims: {}}", "allow.claims"),
        ("allow: anyone, client: ", "client"),
        ("allow: anyone, methods: ", "methods"),
        ("allow: anyone, when: ", "when"),
        ("allow: anyone, if: ", "if"),
        ("allow: anyone, headers: {}", "headers"),
        ("allow: anyone, time: {zone: UTC, days: }", "time.days"),
        ("deny: anyone, hosts: ", "hosts"),
    ],
)
def test_a_key_without_a_value_is_an_error(rule: str, key: str) -> None:
    """If it counted as absent, the rule would admit more than its author meant."""
    [problem] = problems(f"rules:\n  - {{name: r, {rule}}}\n")
    assert problem.startswith(f"p.yaml:2: rules[0].{key}: ")


def test_a_name_is_unique_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RULE % "same")
    (tmp_path / "b.yml").write_text(RULE % "same")
    with pytest.raises(
        ConfigError, match=r"b\.yml:1: rules\[0\]\.name: rule 'same' is already defined in .*a\.yaml:1"
    ):
        load_policy([tmp_path])


def test_credentials_and_identity_headers_belong_in_one_file(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("credentials: {}\nidentity_headers: {x-user: subject}\n")
    with pytest.raises(ConfigError) as caught:
        load_policy([tmp_path])
    assert [problem.key_path for problem in caught.value.problems] == ["credentials", "identity_headers"]


def test_the_errors_of_every_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rules: [{name: a}]")
    (tmp_path / "b.yaml").write_text("rules: [")
    with pytest.raises(ConfigError) as caught:
        load_policy([tmp_path])
    assert {Path(problem.file).name for problem in caught.value.problems} == {"a.yaml", "b.yaml"}


def test_a_folder_is_read_without_hidden_names(tmp_path: Path) -> None:
    """Kubernetes keeps the versions of a mounted ConfigMap in `..data`."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "a.yaml").write_text(RULE % "a")
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "a.yaml").symlink_to(tmp_path / "..data" / "a.yaml")
    (tmp_path / "notes.txt").write_text("no policy")
    assert [rule.name for rule in load_policy([tmp_path]).rules] == ["a"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(RULE % "a")
    assert len(load_policy([file, tmp_path]).rules) == 1


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_policy([tmp_path / "gone.yaml", tmp_path / "empty"])
    assert [problem.message for problem in caught.value.problems] == [
        "the folder holds no .yaml or .yml file",
        "no such file or folder",
    ]


def test_the_revision_follows_the_meaning_not_the_layout() -> None:
    one = parse_policy("rules:\n  - {name: a, allow: anyone}\n").revision
    same = parse_policy("# why\nrules:\n  - allow: anyone\n    name: a\n").revision
    other = parse_policy("rules:\n  - {name: a, allow: authenticated}\n").revision
    assert one == same != other


def warnings(text: str) -> list[tuple[str, str]]:
    return [
        (problem.key_path, problem.message.partition(":")[0])
        for problem in parse_policy(text).warnings
        if "anyone anything" not in problem.message
    ]


@pytest.mark.parametrize(
    "rule",
    [
        {"methods": None},
        {"when": None},
        {"headers": {"x-a": {"equals": None}}},
        {"time": {"from": None}},
        {"cors": {"origins": "https://a.example", "expose": None}},
        {"deny": None},
    ],
)
def test_what_the_loader_refuses_for_being_empty_the_schema_refuses_too(rule: dict[str, object]) -> None:
    content = {"rules": [{"name": "r", "allow": "anyone", **rule}]}
    with pytest.raises(ValidationError):
        PolicyFile.model_validate(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, PolicyFile.model_json_schema())


def test_what_a_key_left_out_means_is_written_in_the_schema_as_in_a_policy() -> None:
    schema = PolicyFile.model_json_schema()
    of_rule = schema["$defs"]["RuleConfig"]["properties"]
    defaults = {key: value["default"] for key, value in of_rule.items() if "default" in value}
    assert (defaults["hosts"], defaults["paths"], defaults["mode"]) == (["*"], ["/**"], "enforce")
    content = {"rules": [{"name": "r", "allow": "anyone", **defaults}]}
    jsonschema.validate(content, schema)
    PolicyFile.model_validate(content)


@pytest.mark.parametrize(
    ("broad", "narrow", "warned"),
    [
        ("deny: anyone", "paths: [/a]", True),
        ("deny: anyone, paths: ['/a/**']", "paths: [/a, /a/, '/a/{x}', '/a/b/**']", True),
        ("deny: anyone, paths: ['/a/{x}']", "paths: [/a/b]", True),
        ("deny: anyone, paths: [/a/b]", "paths: ['/a/{x}']", False),
        ("deny: anyone, paths: ['/a/{x}']", "paths: ['/a/**']", False),
        ("deny: anyone, paths: [/a, /a/, '/a/{x}/**']", "paths: ['/a/**']", True),
        ("deny: anyone, methods: [GET]", "paths: [/a]", False),
        ("deny: anyone, methods: [GET, PUT]", "methods: [PUT]", True),
        ("deny: anyone, hosts: ['*.a.example']", "hosts: [x.a.example, '*.b.a.example']", True),
        ("deny: anyone, hosts: ['*.a.example']", "hosts: ['*']", False),
        ("deny: anyone, hosts: ['*.a.example']", "hosts: [a.example]", False),
        ("deny: {kinds: [api_key]}", "paths: [/a]", False),
        ("deny: anyone, mode: shadow", "paths: [/a]", False),
    ],
)
def test_an_allow_rule_that_never_decides_is_warned_of(broad: str, narrow: str, warned: bool) -> None:
    exact = "paths: {case: exact, trailing_slash: exact}\n"
    rules = f"rules: [{{name: broad, {broad}}}, {{name: narrow, allow: anyone, {narrow}}}]"
    found = warnings(f"{exact}{rules}\ncredentials: {{api_keys: {{file: keys.yaml}}}}")
    assert found == ([("rules[1]", "never decides")] if warned else [])


def test_a_demand_under_an_open_rule_is_warned_of() -> None:
    found = warnings(
        """rules:
  - {name: careful, paths: [/a/b], allow: authenticated}
  - {name: open, paths: ['/a/**'], allow: anyone}
"""
    )
    assert found == [("rules[0]", "requires a credential in vain")]


def test_the_schema_knows_what_the_loader_takes() -> None:
    schema = PolicyFile.model_json_schema()
    for allow in ("anyone", {"roles": ["a"]}, ["authenticated", {"scopes": ["b"]}]):
        content = {"rules": [{"name": "r", "hosts": ["*.a.example"], "paths": ["/{x}"], "allow": allow}]}
        jsonschema.validate(content, schema)
        PolicyFile.model_validate(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rules": [{"name": "r", "allow": "anybody"}]}, schema)


@pytest.mark.parametrize(
    ("broad", "narrow", "warned"),
    [
        ("allow: authenticated, paths: ['/a/**']", "allow: authenticated, paths: [/a/b]", True),
        ("allow: {roles: [x]}, paths: ['/a/**']", "allow: {roles: [x]}, paths: ['/a/{b}']", True),
        ("allow: {roles: [x]}, paths: ['/a/**']", "allow: {roles: [y]}, paths: ['/a/{b}']", False),
        ("allow: authenticated, mode: shadow", "allow: authenticated, paths: [/a]", False),
        ("allow: authenticated, client: 10.0.0.0/8", "allow: authenticated, paths: [/a]", False),
        ("allow: authenticated", "allow: authenticated, paths: [/a], response_headers: {x-a: b}", False),
    ],
)
def test_a_rule_that_a_broader_one_makes_needless_is_warned_of(broad: str, narrow: str, warned: bool) -> None:
    found = warnings(f"rules: [{{name: broad, {broad}}}, {{name: narrow, {narrow}}}]")
    assert found == ([("rules[1]", "adds nothing")] if warned else [])


class TestAllAtOnce:
    """One run says all that can be known; what is wrong only because something else is, it does not say."""

    def test_a_bad_path_hides_neither_unknown_names_nor_repeated_ones_nor_unbound_variables(self) -> None:
        found = problems(
            """rules:
  - {name: a, paths: [users], allow: anyone}
  - {name: b, paths: [/b], allow: anyone, if: nowhere, inherit: missing}
  - {name: c, paths: [/c], allow: anyone}
  - {name: c, paths: [/d], allow: anyone}
  - {name: e, paths: ["/{id}"], allow: anyone, when: vars.x == 'a'}
"""
        )
        assert [line.split(": ")[1] for line in found] == [
            "rules[0].paths[0]",
            "rules[1].if",
            "rules[1].inherit",
            "rules[3].name",
            "rules[4].when",
        ]

    def test_the_same_rule_may_have_mistakes_of_every_kind(self) -> None:
        found = problems(
            """rules:
  - {name: a, paths: [/a], deny: anyone}
  - {name: a, hosts: ["a:80"], paths: ["/{id}"], allow: no_one, if: x, inherit: y, when: vars.x == 'a'}
"""
        )
        assert [line.split(": ")[1] for line in found] == [
            "rules[1].allow",
            "rules[1].hosts[0]",
            "rules[1].if",
            "rules[1].inherit",
            "rules[1].name",
            "rules[1].when",
        ]

    def test_a_rule_that_makes_no_sense_is_reported_together_with_a_bad_key(self) -> None:
        found = problems("rules: [{name: a, paths: [x]}, {name: b, hosts: [''], allow: anyone, answer: {}}]")
        assert [line.split(": ")[1] for line in found] == [
            "rules[0]",
            "rules[0].paths[0]",
            "rules[1]",
            "rules[1].hosts[0]",
        ]

    @pytest.mark.parametrize(
        "text",
        [
            "conditions: {x: {client: nowhere}}\nrules: [{name: a, allow: anyone, if: x}]",
            "conditions: {x: {client: nowhere, when: 'true'}}\nrules: [{name: a, allow: anyone, if: x}]",
            "conditions: {x: }\nrules: [{name: a, allow: anyone, if: x}]",
            "conditions: [x]\nrules: [{name: a, allow: anyone, if: x}]",
            "defaults: {x: {hosts: ['a:80']}}\nrules: [{name: a, allow: anyone, inherit: x}]",
            "defaults: {x: {if: 7}}\nrules: [{name: a, allow: anyone, inherit: x}]",
            "rules: [{name: a, paths: [x], allow: anyone, when: vars.id == 'a'}]",
            "rules: [{name: 7, allow: anyone}, {name: 7.5, deny: {scopes: [a], rolles: [b]}}]",
            "rules: [{allow: anyone, paths: [/a]}, {allow: anyone, paths: [/b]}]",
            "rules: [a, b]",
            "rules: {name: a}",
            "login: /login\ncredentials: {issuers: 7}\nidentity_headers: {host: subject}",
            "- a",
        ],
    )
    def test_what_has_a_mistake_is_there_all_the_same(self, text: str) -> None:
        """None of these has a mistake other than those that its models find."""
        with pytest.raises(ValidationError) as caught:
            PolicyFile.model_validate(yaml.safe_load(text))
        assert len(problems(text)) == caught.value.error_count()

    def test_a_name_that_is_none_does_not_keep_others_from_being_unknown(self) -> None:
        found = problems("conditions: {1: {client: 10.0.0.0/8}}\nrules: [{name: a, allow: anyone, if: x}]")
        assert [line.split(": ")[1] for line in found] == ["conditions[1]", "rules[0].if"]

    def test_files_are_compared_with_each_other_even_if_one_has_mistakes(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(
            "credentials: {}\nrules: [{name: same, paths: [x], allow: anyone}]\n"
        )
        (tmp_path / "b.yaml").write_text("credentials: 7\nrules: [{name: same, allow: anyone, if: gone}]\n")
        with pytest.raises(ConfigError) as caught:
            load_policy([tmp_path])
        assert [(Path(one.file).name, one.key_path) for one in caught.value.problems] == [
            ("a.yaml", "rules[0].paths[0]"),
            ("b.yaml", "credentials"),
            ("b.yaml", "credentials"),
            ("b.yaml", "rules[0].if"),
            ("b.yaml", "rules[0].name"),
        ]

    @pytest.mark.parametrize("other", ["rules: [", "- a", "include: 7", None])
    def test_names_that_an_unreadable_file_may_hold_are_not_called_unknown(
        self, tmp_path: Path, other: str | None
    ) -> None:
        first = tmp_path / "a.yaml"
        first.write_text("include: b.yaml\nrules:\n  - {name: a, paths: [x], allow: anyone, if: there}\n")
        if other is not None:
            (tmp_path / "b.yaml").write_text(other)
        with pytest.raises(ConfigError) as caught:
            load_policy([first])
        assert len(caught.value.problems) == 2
        assert "there is no" not in str(caught.value)

    def test_a_duplicate_key_hides_no_other_problem(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text(
            "conditions: {x: {client: 10.0.0.0/8}}\n"
            "rules:\n  - {name: a, name: b, paths: [x], allow: anyone, if: x}\n"
            "conditions: {y: {client: 10.0.0.0/8}}\n"
        )
        with pytest.raises(ConfigError) as caught:
            load_policy([file])
        assert [one.key_path for one in caught.value.problems] == [
            "rules[0].name",
            "rules[0].paths[0]",
            "conditions",
        ]

    def test_a_folder_without_a_policy_hides_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "a.yaml").write_text("rules: [{name: a}]")
        with pytest.raises(ConfigError) as caught:
            load_policy([tmp_path / "empty", tmp_path / "a.yaml"])
        assert len(caught.value.problems) == 2
