"""`sidecars policy`: what each command prints, and its exit code."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import yaml

from sidecars.cli import main

ROOT = Path(__file__).parents[3]
POLICY = """\
rules:
  - {name: read, paths: ["/a"], methods: [GET], allow: {scopes: [read]}, owner: team-a, ticket: T-1}
  - {name: shut, paths: ["/a"], deny: {subjects: [mallory]}}
"""
SUITE = """\
policy: policy.yaml
tests:
  - {name: may read, requests: {path: /a}, callers: {scopes: [read]}, expect: %s}
"""


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder
        self.policy = folder / "policy.yaml"
        self.policy.write_text(POLICY)

    def suite(self, expect: str) -> Path:
        file = self.folder / "suite.yaml"
        file.write_text(SUITE % expect)
        return file

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["policy", *(str(argument) for argument in arguments)])
        out, err = self._capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err


@pytest.fixture
def policy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    return Command(capsys, tmp_path)


def test_warnings_fail_a_strict_check_only(policy: Command) -> None:
    policy.policy.write_text("rules: [{name: all, allow: anyone}]")
    code, _, err = policy("check", policy.policy)
    assert (code, "allows anyone anything" in err) == (0, True)
    assert policy("check", "--strict", policy.policy)[0] == 1


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ((), "policy.yaml"),
        (("--suite",), "policy-tests/orders.yaml"),
        (("--suite",), "policy-tests/edges.yaml"),
    ],
)
def test_the_examples_fit_the_schema(policy: Command, options: tuple[str, ...], file: str) -> None:
    code, out, _ = policy("schema", *options)
    assert code == 0
    document = yaml.safe_load((ROOT / "examples" / file).read_text())
    jsonschema.validate(json.loads(json.dumps(document, default=str)), json.loads(out))


def test_fmt_changes_a_file_once(policy: Command) -> None:
    policy.policy.write_text("rules:\n- allow: anyone\n  name: a  # its name\n")
    assert policy("fmt", "--check", policy.policy)[0] == 1
    assert "changed" in policy("fmt", policy.policy)[1]
    assert policy.policy.read_text() == "rules:\n  - name: a  # its name\n    allow: anyone\n"
    assert policy("fmt", "--check", policy.policy) == (0, "", "")


ALIASES = """\
rules:
- allow: anyone
  name: a
  inherit: d
  hosts: &h [a.example]
defaults:
  d: {hosts: *h}
"""


def test_fmt_keeps_an_alias_behind_its_anchor(policy: Command) -> None:
    policy.policy.write_text(ALIASES)
    before = policy("check", policy.policy)[1]
    assert policy("fmt", policy.policy) == (0, f"changed {policy.policy}\n", "")
    assert policy("check", policy.policy)[1] == before
    assert policy.policy.read_text().splitlines()[1] == "  - name: a"
    assert policy("fmt", "--check", policy.policy) == (0, "", "")


def test_fmt_names_what_it_cannot_read_and_lays_out_the_rest(policy: Command) -> None:
    latin, broken = policy.folder / "latin.yaml", policy.folder / "broken.yaml"
    latin.write_bytes(b"rules: []  # \xe9\n")
    broken.write_text("rules: [")
    policy.policy.write_text("rules:\n- name: a\n  allow: anyone\n")
    code, out, err = policy("fmt", policy.folder)
    assert (code, out) == (1, f"changed {policy.policy}\n")
    assert f"{latin}: is not UTF-8 text (byte 13)" in err
    assert f"{broken}:1: is not YAML" in err
    assert latin.read_bytes() == b"rules: []  # \xe9\n"


def test_fmt_of_a_folder_without_a_policy_says_so(policy: Command) -> None:
    (policy.folder / "empty").mkdir()
    code, _, err = policy("fmt", policy.folder / "empty")
    assert (code, "holds no .yaml" in err) == (1, True)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fmt_leaves_alone_what_is_laid_out(policy: Command, end: str) -> None:
    content = f"rules:{end}  - name: a{end}    allow: anyone{end}".encode()
    policy.policy.write_bytes(content)
    assert policy("fmt", policy.policy) == (0, "", "")
    assert policy.policy.read_bytes() == content


def test_show_lists_every_rule_with_its_owner(policy: Command) -> None:
    code, out, _ = policy("show", policy.policy)
    assert code == 0
    for text in ("read", "has scopes read", "team-a", "T-1", "subject is mallory"):
        assert text in out


def test_show_is_readable_at_80_columns(policy: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = f"/{'/'.join(['segment'] * 20)}"
    policy.policy.write_text(
        f"rules: [{{name: long, paths: [{path}, /b], methods: [GET, PUT], hosts: [a.example], "
        "allow: anyone, owner: me}]"
    )
    code, out, _ = policy("show", policy.policy)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for line in (
        "allow long",
        "   methods GET PUT",
        "   hosts   a.example",
        "   who     anyone",
        "   owner   me",
    ):
        assert line in [one.rstrip() for one in out.splitlines()]


def test_show_as_json(policy: Command) -> None:
    policy.policy.write_text(
        "rules: [{name: a, paths: [/a], allow: anyone},"
        "  {name: b, deny: {roles: [x]}, mode: shadow, owner: me}]"
    )
    code, out, _ = policy("show", "--json", policy.policy)
    assert code == 0
    shown = json.loads(out)
    assert set(shown) == {"revision", "rules"}
    assert [(rule["rule"], rule["effect"], rule["mode"]) for rule in shown["rules"]] == [
        ("b", "deny", "shadow"),
        ("a", "allow", "enforce"),
    ]
    assert shown["rules"][0] | {"source": ""} == {
        "rule": "b", "source": "", "effect": "deny", "methods": None, "hosts": ["*"], "paths": ["/**"],
        "who": "has role x", "when": "", "mode": "shadow", "owner": "me", "ticket": "",
    }  # fmt: skip


def test_a_suite_that_passes_exits_with_0(policy: Command) -> None:
    code, out, _ = policy("test", policy.suite("allow"))
    assert code == 0
    assert "coverage" in out


def test_a_case_that_fails_shows_what_was_expected_and_why_not(policy: Command) -> None:
    code, out, _ = policy("test", policy.suite("deny"))
    assert code == 1
    assert "failed may read" in out
    assert "expected" in out
    assert "allow read" in out
    assert "suite.yaml:3" in out


def test_too_little_coverage_fails_and_says_what_is_missing(policy: Command) -> None:
    code, out, _ = policy("test", "--min-coverage", "90", policy.suite("allow"))
    assert code == 1
    assert "never false: has scopes read" in out
    assert policy("test", "--min-coverage", "10", policy.suite("allow"))[0] == 0


def test_a_mistake_in_a_suite_is_a_line_on_stderr(policy: Command) -> None:
    code, _, err = policy("test", policy.suite("perhaps"))
    assert code == 1
    assert "suite.yaml:3: tests[0].expect" in err


def test_a_suite_without_a_policy_needs_the_option(policy: Command) -> None:
    suite = policy.suite("allow")
    suite.write_text(suite.read_text().replace("policy: policy.yaml\n", ""))
    assert "names no policy" in policy("test", suite)[2]
    assert policy("test", "--policy", policy.policy, suite)[0] == 0


def test_junit_names_cases_and_failures(policy: Command) -> None:
    file = policy.folder / "junit.xml"
    policy("test", "--junit", file, policy.suite("deny"))
    root = ET.parse(file).getroot()
    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "outcome: expected deny, got allow"
    assert "has scopes read" in (failure.text or "")


def test_junit_is_written_in_a_folder_that_exists(policy: Command) -> None:
    folder = policy.folder / "out"
    code, out, err = policy("test", "--junit", folder / "junit.xml", policy.suite("allow"))
    assert (code, out) == (2, "")
    assert f"Invalid value for --junit: there is no folder '{folder}'" in err
    assert not folder.exists()


def test_explain_prints_a_tree(policy: Command) -> None:
    code, out, _ = policy("explain", "-p", policy.policy, "--subject", "al", "--scopes", "write", "/a")
    assert code == 0
    assert "deny 403 credentials_insufficient by rule 'read'" in out
    assert "✗ has scopes read; found: write" in out


def test_explain_prints_brackets_in_a_name_as_they_are(policy: Command) -> None:
    policy.policy.write_text("rules: [{name: 'reads [v1] [red]', paths: [/a], allow: anyone}]")
    _, out, _ = policy("explain", "-p", policy.policy, "/a")
    assert "allow 200 allowed by rule 'reads [v1] [red]'" in out


def test_explain_gives_json(policy: Command) -> None:
    _, out, _ = policy(
        "explain", "-p", policy.policy, "--json", "--subject", "mallory", "--scopes", "read", "/a"
    )
    result = json.loads(out)
    assert (result["outcome"], result["rule"]) == ("deny", "shut")
    assert [(rule["rule"], rule["applies"]) for rule in result["rules"]] == [("read", True), ("shut", True)]


def test_explain_reads_a_request_from_a_file(policy: Command) -> None:
    file = policy.folder / "request.yaml"
    file.write_text("request: {path: /a}\ncaller: {scopes: [read]}\n")
    assert "allow 200" in policy("explain", "-p", policy.policy, "--request", file)[1]


@pytest.mark.parametrize(
    "options",
    [
        ("--subject", "b"),
        ("--scopes", ""),
        ("-X", "GET"),
        ("-H", "x-a: b"),
        ("--data", ""),
        ("--client", "192.0.2.1"),
        ("--context", "audience=internal"),
        ("--issuer", "i"),
        ("--roles", "r"),
        ("--claims", "{}"),
        ("--kind", "jwt"),
        ("--refused", "token_expired"),
    ],
)
def test_explain_takes_a_request_from_a_file_or_from_options_never_from_both(
    policy: Command, options: tuple[str, str]
) -> None:
    file = policy.folder / "request.yaml"
    file.write_text("request: {path: /a}\n")
    code, out, err = policy("explain", "-p", policy.policy, "--request", file, *options)
    assert (code, out) == (2, "")
    name = {"-X": "--method", "-H": "--header"}.get(options[0], options[0])
    assert err.startswith("sidecars policy explain: Invalid value for --request: the file has the request")
    assert f"instead of {name} (" in err


def test_explain_takes_what_the_route_says(policy: Command) -> None:
    file = policy.folder / "route.yaml"
    file.write_text("""
rules:
  - name: inner
    allow: anyone
    context_extensions: {audience: internal}
    when: context_extensions.a == 'b=c'
""")
    found = ("--context", "audience=internal", "--context", "a=b=c")
    assert "allow 200" in policy("explain", "-p", file, "/a", *found)[1]
    out = policy("explain", "-p", file, "/a", "--context", "audience=internal")[1]
    assert "deny 403" in out
    assert "it fails: 'a' does not exist" in out


def test_other_options_may_accompany_a_request_file(policy: Command) -> None:
    file = policy.folder / "request.yaml"
    file.write_text("request: {path: /a}\n")
    options = ("--at", "2026-01-01", "--trusted-hops", "1", "--all", "--json")
    assert policy("explain", "-p", policy.policy, "--request", file, *options)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either a URL or --request"),
        (
            ("/a", "--client", "foo"),
            "--client: 'foo': expected an IP address, as in 192.0.2.1 or 2001:db8::1 (",
        ),
        (("/a", "--claims", "[]"), "expected a JSON object"),
        (("/a", "-H", "a b: c"), "for --header: "),
        (("/a", "-H", "nonsense"), "expected 'name: value'"),
        (("/a", "--claims", "{"), "is not JSON from line 1, character 2 on"),
        (("/a", "--context", "audience"), "for --context: 'audience': expected 'name=value'"),
        (("/a", "--at", "noon"), "expected a time"),
        (("/a", "--kind", "magic"), "kind: expected jwt"),
        (("a",), "expected https://host/path"),
    ],
)
def test_explain_tells_what_is_wrong_with_its_options(
    policy: Command, options: tuple[str, ...], message: str
) -> None:
    code, _, err = policy("explain", "-p", policy.policy, *options)
    assert (code, message in err) == (2, True), err


def test_diff_of_a_policy_with_itself_is_empty(policy: Command) -> None:
    assert policy("diff", policy.policy, policy.policy) == (0, "nothing differs\n", "")


def test_diff_tells_what_is_said_of_the_whole_policy(policy: Command) -> None:
    new = policy.folder / "new.yaml"
    new.write_text(POLICY + "login: {url: /login}\nstrip_session_cookie: false\n")
    code, out, _ = policy("diff", policy.policy, new)
    assert code == 1
    assert out.splitlines() == [
        "~ the whole policy",
        '    login: nothing -> {"url":"/login","return_parameter":"return_to"}',
        "    strip_session_cookie: true -> false",
    ]
    result = json.loads(policy("diff", policy.policy, new, "--json")[1])
    assert result["policy"]["strip_session_cookie"] == {"old": "true", "new": "false"}


def test_diff_tells_what_was_added_removed_and_changed(policy: Command) -> None:
    new = policy.folder / "new.yaml"
    new.write_text(POLICY.replace("[read]", "[write]").replace("name: shut", "name: barred"))
    code, out, _ = policy("diff", policy.policy, new, "--json", "--tests", policy.suite("allow"))
    result = json.loads(out)
    assert code == 1
    assert (result["added"], result["removed"]) == (["barred"], ["shut"])
    assert result["changed"] == {"read": {"who": {"old": "has scopes read", "new": "has scopes write"}}}
    assert [(one["old"]["outcome"], one["new"]["outcome"]) for one in result["cases"]] == [("allow", "deny")]


def test_replay_exits_with_1_when_answers_differ(policy: Command) -> None:
    log = ROOT / "examples" / "policy-tests" / "access.jsonl"
    code, out, _ = policy("replay", "--log", log, "--against", policy.policy, "--json")
    result = json.loads(out)
    assert code == 1
    assert sum(group["times"] for group in result["groups"]) == result["different"] == 2
    assert result["same"] == 1
