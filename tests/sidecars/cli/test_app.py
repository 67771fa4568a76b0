"""The `sidecars` command as its users meet it: help, one clear line for each error, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.descriptors import protoset_path, read_descriptors
from tests.support.command import Command

ROOT = Path(__file__).parents[3]
POLICY = """\
rules:
  - name: everyone
    paths: [/public]
    allow: anyone
"""


GROUPS = {
    (): ("run", "demo", "protoset", "version", "config", "policy", "limits"),
    ("config",): ("check", "schema"),
    ("policy",): ("check",),
    ("limits",): ("check", "explain"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_of_a_group_names_its_commands(sidecars: Command, group: tuple[str, ...]) -> None:
    result = sidecars(*group, "--help")
    assert result.code == 0
    for command in GROUPS[group]:
        assert command in result.out


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("demo",),
        ("protoset",),
        ("config", "check"),
        ("config", "schema"),
        ("policy", "check"),
        ("limits", "check"),
        ("limits", "explain"),
    ],
)
def test_the_help_of_a_command_has_an_example(sidecars: Command, command: tuple[str, ...]) -> None:
    result = sidecars(*command, "-h")
    assert result.code == 0
    assert f"Example: sidecars {' '.join(command)}" in result.out


@pytest.mark.parametrize(
    "command",
    [("run",), ("demo",), ("protoset",), ("config", "check"), ("policy", "check"), ("limits", "check")],
)
def test_the_help_of_a_command_explains_its_exit_codes(sidecars: Command, command: tuple[str, ...]) -> None:
    assert "Exit codes: 0 " in sidecars(*command, "--help").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("--nonsense",), "No such option: --nonsense"),
        (("run",), "Missing argument"),
        (("run", "all"), "Missing option '--config'"),
        (
            ("run", "other", "--config", "x"),
            "'other' is not one of 'authz', 'ratelimit', 'accesslog', 'all'",
        ),
        (("config", "check"), "name a settings file, or give --compat"),
        (("config", "check", "/none"), "file '/none' does not exist"),
        (("policy", "check", "/none"), "path '/none' does not exist"),
        (("limits", "check"), "Missing argument"),
        (("demo", "--port", "65536"), "less than or equal to 65535"),
    ],
)
def test_bad_usage_is_one_line_on_stderr_and_exit_2(
    sidecars: Command, arguments: tuple[str, ...], says: str
) -> None:
    result = sidecars(*arguments)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert says in line
    assert line.startswith("sidecars")
    assert "--help)" in line


def test_a_command_group_without_a_command_shows_its_help(sidecars: Command) -> None:
    result = sidecars()
    assert result.code == 2
    assert "Usage" in result.out


def test_version_is_printed(sidecars: Command) -> None:
    result = sidecars("version")
    assert result.code == 0
    assert result.out.strip()[0].isdigit()


def test_schema_is_json_schema(sidecars: Command) -> None:
    result = sidecars("config", "schema")
    assert result.code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(result.out))


class TestPolicyCheck:
    def test_good_files_are_ok(self, sidecars: Command, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(POLICY)
        result = sidecars("policy", "check", tmp_path / "a.yaml")
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("ok: 1 rule")

    def test_every_problem_of_every_file_is_a_line_and_exit_1(
        self, sidecars: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "a.yaml").write_text("ruels: []\n")
        (tmp_path / "b.yaml").write_text("rules: [\n")
        result = sidecars("policy", "check", tmp_path)
        assert (result.code, result.out) == (1, "")
        assert [line.split(": ")[0].rpartition("/")[2] for line in result.err.splitlines()] == [
            "a.yaml:1",
            "b.yaml:1",
        ]


class TestLimitsCheck:
    def test_good_files_are_ok(self, sidecars: Command, tmp_path: Path) -> None:
        limit = "{unit: second, requests_per_unit: 1}"
        (tmp_path / "a.yaml").write_text(f"domain: a\ndescriptors:\n  - {{key: k, rate_limit: {limit}}}\n")
        result = sidecars("limits", "check", tmp_path)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("ok: 1 limit")

    def test_what_is_not_loaded_is_a_warning(self, sidecars: Command, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("domain: a\ndescriptors: [{key: k}]\n")
        (tmp_path / "b.conf").write_text("domain: b\ndescriptors: [{key: k}]\n")
        result = sidecars("limits", "check", tmp_path)
        assert (result.code, result.err.partition(";")[0]) == (0, f"warning: {tmp_path}: skipped b.conf")
        result = sidecars("limits", "check", "--folder-files", "all", tmp_path)
        assert (result.err, " in 2 domains" in result.out) == ("", True)

    def test_every_problem_is_a_line_and_exit_1(self, sidecars: Command, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("domain: a\ndescriptors:\n  - {kye: k}\n  - {key: k, valeu: v}\n")
        result = sidecars("limits", "check", tmp_path / "a.yaml")
        assert (result.code, result.out) == (1, "")
        assert len(result.err.splitlines()) >= 2
        assert f"{tmp_path}/a.yaml:3: " in result.err
        assert f"{tmp_path}/a.yaml:4: " in result.err

    def test_two_files_may_share_a_domain_only_when_asked_to(self, sidecars: Command, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / f"{name}.yaml").write_text(f"domain: d\ndescriptors: [{{key: {name}}}]\n")
        assert sidecars("limits", "check", tmp_path).code == 1
        assert sidecars("limits", "check", "--merge-domains", tmp_path).code == 0


class TestConfigCheck:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "policy.yaml").write_text(POLICY)
        (tmp_path / "limits.yaml").write_text("domain: a\ndescriptors: [{key: k}]\n")
        file = tmp_path / "sidecars.yaml"
        file.write_text(
            "authz: {listen: ['unix:/a'], policy: [policy.yaml]}\n"
            "ratelimit: {listen: ['unix:/r'], limits: [limits.yaml]}\n"
            "accesslog: {listen: ['unix:/l']}\n"
        )
        return file

    def test_a_good_file_is_ok_and_opens_nothing(self, sidecars: Command, file: Path) -> None:
        result = sidecars("config", "check", file)
        assert (result.code, result.err) == (0, "")
        assert result.out == f"{file}: ok (authz, ratelimit, accesslog)\n"
        assert not Path("/a").exists()

    def test_a_domain_that_limits_nothing_is_a_warning(self, sidecars: Command, file: Path) -> None:
        (file.parent / "limits.yaml").write_text("domain: a\n")
        result = sidecars("config", "check", file)
        assert (result.code, "limits.yaml:1: descriptors: domain 'a'" in result.err) == (0, True)

    def test_problems_of_the_file_the_environment_policy_and_limits_are_all_found(
        self, sidecars: Command, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SIDECARS_LOG__LEVEL", "loud")
        (file.parent / "policy.yaml").write_text("ruels: []\n")
        (file.parent / "limits.yaml").write_text("domian: a\n")
        file.write_text(file.read_text() + "adnim: {}\n")
        result = sidecars("config", "check", file)
        assert (result.code, result.out) == (1, "")
        for where in (
            "SIDECARS_LOG__LEVEL: ",
            "sidecars.yaml:4: adnim",
            "policy.yaml:1: ",
            "limits.yaml:1: ",
        ):
            assert where in result.err

    def test_what_needs_another_section_or_file_is_reported_at_its_line(
        self, sidecars: Command, tmp_path: Path
    ) -> None:
        file = tmp_path / "s.yaml"
        file.write_text(
            "workers: 2\n"
            "authz:\n  listen: ['unix:/a.{worker}']\n  policy: [policy.yaml]\n"
            "ratelimit:\n  listen: ['unix:/r.{worker}']\n  limits: [limits.yaml]\n  store: redis\n"
        )
        (tmp_path / "limits.yaml").write_text("domain: a\n")
        (tmp_path / "policy.yaml").write_text("include: [more.yaml]\nrules: []\n")
        (tmp_path / "more.yaml").write_text("credentials:\n  sessions:\n    store: memory\n")
        answered = sidecars("config", "check", "--offline", file).err.splitlines()
        assert answered[0].startswith(f"{tmp_path}/more.yaml:3: credentials.sessions.store: cannot be memory")
        assert answered[1].startswith(f"{file}:8: ratelimit.store: ")
        (tmp_path / "more.yaml").write_text("credentials:\n  sessions:\n    store: redis\n")
        answered = sidecars("config", "check", "--offline", file).err.splitlines()
        assert answered[0].startswith(f"{file}:1: redis: is required by credentials.sessions.store")

    def test_a_file_with_nothing_to_run_is_a_problem(self, sidecars: Command, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("")
        assert "holds nothing to run" in sidecars("config", "check", tmp_path / "s.yaml").err


class TestRun:
    def test_bad_configuration_is_exit_2_with_a_line_for_each_problem(
        self, sidecars: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "s.yaml").write_text("adnim: {}\nlog: {level: loud}\n")
        result = sidecars("run", "all", "--config", tmp_path / "s.yaml")
        assert (result.code, result.out) == (2, "")
        assert len(result.err.splitlines()) == 2

    def test_a_missing_file_is_exit_2(self, sidecars: Command, tmp_path: Path) -> None:
        result = sidecars("run", "all", "-c", tmp_path / "none.yaml")
        assert result.code == 2
        assert result.err == f"{tmp_path}/none.yaml: cannot be read: no such file or folder\n"

    def test_a_sidecar_that_is_not_configured_is_exit_2(self, sidecars: Command, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("accesslog: {listen: ['unix:/l']}\n")
        result = sidecars("run", "authz", "-c", tmp_path / "s.yaml")
        assert result.code == 2
        assert result.err.endswith("write a section authz\n")


class TestProtoset:
    def test_it_prints_where_the_descriptor_set_lies(self, sidecars: Command) -> None:
        result = sidecars("protoset")
        assert (result.code, result.err) == (0, "")
        assert FileDescriptorSet.FromString(Path(result.out.strip()).read_bytes()) == read_descriptors()

    def test_it_writes_a_copy(self, sidecars: Command, tmp_path: Path) -> None:
        copy = tmp_path / "copy.protoset"
        result = sidecars("protoset", "--output", copy)
        assert (result.code, result.out, result.err) == (0, "", "")
        assert copy.read_bytes() == protoset_path().read_bytes()

    def test_a_copy_that_cannot_be_written_is_one_line(self, sidecars: Command, tmp_path: Path) -> None:
        result = sidecars("protoset", "-o", tmp_path / "none" / "copy")
        assert (result.code, result.err) == (
            1,
            f"sidecars: {tmp_path}/none/copy: no such file or folder\n",
        )


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecars", "version"], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.strip()


def test_a_reader_that_has_enough_is_not_a_traceback() -> None:
    """`sidecars config schema | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "sidecars", "config", "schema"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1


class TestCompat:
    @pytest.mark.parametrize(
        "arguments", [("run", "all", "--compat"), ("run", "ratelimit", "--compat", "--config", "x")]
    )
    def test_compat_is_for_ratelimit_alone_and_without_a_file(
        self, sidecars: Command, arguments: tuple[str, ...]
    ) -> None:
        result = sidecars(*arguments)
        assert (result.code, "--compat is for" in result.err) == (2, True)
