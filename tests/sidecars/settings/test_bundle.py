"""`bundle:` and the paths that lead into a bundle."""

from pathlib import Path

import pytest

from common.configfile import ConfigError
from sidecars.settings.in_bundle import in_bundle, sections_in_bundle
from sidecars.settings.load import load_settings, read_settings
from tests.support.command import Command

BUNDLE = "bundle: {url: 'https://a.example/b?sig=secret', keys: {a: a.pem}, folder: state}\n"
SECTIONS = """
authz: {listen: ["unix:a"], policy: ["{bundle}/policy", local.yaml]}
ratelimit: {listen: ["unix:r"], limits: ["{bundle}/limits"]}
accesslog:
  listen: ["unix:l"]
  redact: {policy: ["{bundle}/policy"]}
  route_rules: ["{bundle}/accesslog.json"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sidecars.yaml"
    path.write_text(BUNDLE + SECTIONS)
    return path


def test_paths_in_the_bundle_lead_to_its_folder_and_others_stay(file: Path) -> None:
    settings = read_settings(file, {}).settings
    assert settings is not None
    assert sections_in_bundle(settings) == ("authz", "ratelimit", "accesslog")
    inside = in_bundle(settings, Path("/b"))
    assert inside.authz is not None
    assert inside.ratelimit is not None
    assert inside.accesslog is not None
    assert inside.authz.policy == (Path("/b/policy"), file.parent / "local.yaml")
    assert inside.ratelimit.limits == (Path("/b/limits"),)
    assert inside.accesslog.redact.policy == (Path("/b/policy"),)
    assert inside.accesslog.route_rules == (Path("/b/accesslog.json"),)


def test_commands_use_the_bundle_that_is_kept(file: Path) -> None:
    serving = file.parent / "state" / "authz-0" / "serving"
    serving.mkdir(parents=True)
    settings = load_settings(file, {})
    assert settings.ratelimit is not None
    assert settings.ratelimit.limits == (serving / "limits",)


def test_a_path_in_a_bundle_needs_the_section(file: Path) -> None:
    file.write_text(SECTIONS)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    assert [problem.key_path for problem in caught.value.problems] == [
        "authz.policy[0]",
        "ratelimit.limits[0]",
        "accesslog.redact.policy[0]",
        "accesslog.route_rules[0]",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{url: 'http://a.example/', keys: {a: b}, folder: c}", "the URL must be https"),
        ("{url: 'ftp://a.example/', keys: {a: b}, folder: c}", "the URL must look like https"),
        ("{url: 'https://u:p@a.example/', keys: {a: b}, folder: c}", "may not hold a user name"),
        ("{url: 'https://a.example/', folder: c}", "needs keys"),
    ],
)
def test_a_section_that_cannot_work_is_refused(file: Path, text: str, why: str) -> None:
    file.write_text(f"bundle: {text}\n")
    with pytest.raises(ConfigError, match=why):
        load_settings(file, {})


def test_the_query_of_a_url_is_not_shown(file: Path) -> None:
    settings = load_settings(file, {})
    assert settings.bundle is not None
    assert settings.bundle.url == "https://a.example/b?sig=secret"
    assert settings.model_dump(mode="json")["bundle"]["url"] == "https://a.example/b?***"


def test_a_check_without_a_bundle_says_what_it_leaves_out(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = Command(capsys)("config", "check", "--offline", file)
    assert (checked.code, checked.out) == (0, f"{file}: ok\n")
    assert "authz is not checked: its files come with a bundle, and none is here" in checked.err


@pytest.mark.parametrize("command", [("config", "check"), ("run", "all", "--config")])
def test_an_error_in_the_settings_is_told_without_those_that_follow_from_it(
    file: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Without a valid section, no bundle is fetched: its files are not missing."""
    file.write_text(BUNDLE.replace("folder", "foldr") + SECTIONS)
    (file.parent / "a.pem").write_text("")
    told = Command(capsys)(*command, file)
    assert told.code == (1 if command[0] == "config" else 2)
    problems = [line for line in told.err.splitlines() if not line.startswith("warning")]
    assert [line.removeprefix(f"{file}:") for line in problems] == [
        "1: bundle.folder: is required",
        "1: bundle.foldr: unknown key; did you mean 'folder'?",
    ]
    file.write_text(BUNDLE + SECTIONS.replace("local.yaml]", "local.yaml], polic: 1"))
    told = Command(capsys)(*command, file)
    problems = [line for line in told.err.splitlines() if not line.startswith("warning")]
    assert "authz.polic: unknown key" in "".join(problems)
    assert "no such file" not in told.err
