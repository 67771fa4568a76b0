"""`sidecars edge`: what teams want at the edge."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from sidecars.cli import main
from tests.edge.estates import EXAMPLE

OPENED = "every method /v1/staff/{rest=**} may now be called by anyone"


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main(["edge", *map(str, arguments)])
    return int(left.value.code or 0)


@pytest.fixture
def estate(tmp_path: Path) -> Path:
    """Return a copy of the example, to change."""
    return shutil.copytree(EXAMPLE, tmp_path / "estate")


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_the_example_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", EXAMPLE) == 0
    assert capsys.readouterr().out.startswith("ok: 8 routes of 3 services, 3 teams, revision ")


def test_all_problems_are_printed_with_file_and_line(
    estate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(estate / "services/search.yaml", "hosts: [api.example.com]", "hosts: [checkout.example.com]")
    change(estate / "services/search.yaml", "requests: 20, period: 1s", "requests: 5000, period: 1s")
    change(estate / "services/checkout.yaml", "tier: gold", "tier: golf")
    assert run("check", estate) == 1
    printed = capsys.readouterr().err.splitlines()
    tier = "tier: the platform has no tier 'golf'; did you mean 'gold'?"
    assert f"{estate}/services/checkout.yaml:6: {tier}" in printed
    search = [line for line in printed if line.startswith(f"{estate}/services/search.yaml:")]
    assert "does not own checkout.example.com: it belongs to the team checkout (platform.yaml:" in search[0]
    assert "5000 requests a second are above the ceiling of 1000 (platform.yaml:" in search[1]


def test_exceptions_are_checked_for_the_day_of_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", EXAMPLE, "--date", "2099-12-31") == 0
    assert run("check", EXAMPLE, "--date", "2100-01-01") == 1
    assert "exceptions[0].until: the exception ended on 2099-12-31" in capsys.readouterr().err
    assert run("check", EXAMPLE, "--date", "tomorrow") == 2


@pytest.mark.parametrize("kind", ["service", "platform"])
def test_the_example_fits_the_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", kind) == 0
    schema = json.loads(capsys.readouterr().out)
    files = EXAMPLE.glob("services/*.yaml") if kind == "service" else EXAMPLE.glob("platform.yaml")
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        # JSON has no dates.
        jsonschema.validate(json.loads(json.dumps(content, default=str)), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, "unknown": 1}, schema)


def test_explain_names_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", EXAMPLE, "checkout.example.com", "/orders/7", "--method", "PUT") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        "PUT checkout.example.com/orders/7  checkout.orders-write",
        "callers with scope orders:write",
    ]
    [sample] = [line.split() for line in printed if line.startswith("log sample")]
    assert sample[-2:] == ["service", f"{EXAMPLE}/services/checkout.yaml:25"]


def test_explain_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", EXAMPLE, "checkout.example.com", "/status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["route"], found["verdict"]) == ("checkout.status", "anyone")
    assert found["reasons"][0] == {
        "what": "service",
        "text": "checkout of the team checkout",
        "layer": "service",
        "place": "services/checkout.yaml:1",
    }


def test_explain_of_a_request_that_is_not_served_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", EXAMPLE, "checkout.example.com", "/none") == 1
    assert "not served: no route covers the path" in capsys.readouterr().out
    assert run("explain", EXAMPLE, "not a host", "/") == 2


def test_build_writes_what_changed_and_says_the_revision(
    estate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "built"
    assert run("build", estate, "--out", out) == 0
    revision = (out / "revision").read_text().strip()
    said = capsys.readouterr().out
    assert said.startswith(
        f"ok: 8 routes of 3 services, revision {revision}; changed: policy.json, limits.json, "
    )
    assert run("build", estate, "--out", out) == 0
    assert capsys.readouterr().out.endswith(f"revision {revision}; changed: nothing\n")


def test_build_check_finds_a_folder_that_is_not_what_the_intent_builds(
    estate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "built"
    run("build", estate, "--out", out)
    assert run("build", estate, "--out", out, "--check") == 0
    change(estate / "services" / "search.yaml", "requests: 20", "requests: 21")
    capsys.readouterr()
    assert run("build", estate, "--out", out, "--check") == 1
    said = capsys.readouterr().out
    assert said.startswith("differs: ")
    assert "would change: policy.json, limits.json" in said
    assert b'"requests_per_unit":21' not in (out / "limits.json").read_bytes()


def test_build_writes_nothing_if_the_intent_has_problems(
    estate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(estate / "services" / "search.yaml", "owner: search", "owner: strangers")
    assert run("build", estate, "--out", tmp_path / "built") == 1
    assert "services/search.yaml:2: owner" in capsys.readouterr().err
    assert not (tmp_path / "built").exists()


def test_diff_says_what_opens_first_and_fails_if_wanted(
    estate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = '{issuers: ["https://staff.idp.example"], roles: [support, admin]}'
    change(estate / "services/accounts.yaml", who, "anyone")
    change(estate / "services/search.yaml", "search.internal", "other.internal")
    assert run("diff", EXAMPLE, estate) == 0
    before = "callers with role support or admin, issuer https://staff.idp.example"
    assert capsys.readouterr().out.splitlines() == [
        f"access wider      accounts: {OPENED} (before: {before})",
        "other             search: the upstream is other.internal:8080 (before: search.internal:8080)",
    ]
    assert run("diff", EXAMPLE, estate, "--fail-if-wider", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["subjects"], one["widens"]) for one in found] == [
        ("access wider", ["accounts"], True),
        ("other", ["search"], False),
    ]
    assert run("diff", estate, EXAMPLE, "--fail-if-wider") == 0


def test_diff_reads_an_old_folder_whose_exceptions_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", EXAMPLE, EXAMPLE, "--date", "2100-01-01") == 1
    assert "the exception ended" in capsys.readouterr().err
    assert run("diff", EXAMPLE, EXAMPLE) == 0
    assert capsys.readouterr().out == "nothing differs\n"


def test_what_a_team_writes_cannot_erase_or_reorder_what_is_shown(
    estate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(estate / "services/checkout.yaml", "is watched closely", "is \\e[1A\\e[2K\\u202E watched")
    file = estate / "services/checkout.yaml"
    reason = next(line for line in file.read_text(encoding="utf-8").splitlines() if "reason:" in line)
    change(file, reason, reason.replace("reason: ", 'reason: "') + '"')
    assert run("diff", EXAMPLE, estate) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[1A\\x1b[2K\\u202e watched" in printed
    change(file, "tier: gold", '"\\e[2K": gold')
    assert run("check", estate) == 1
    printed += capsys.readouterr().err
    assert "\\x1b[2K: unknown key" in printed
    assert printed.replace("\n", "").isprintable()
