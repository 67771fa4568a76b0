"""`sidecars limits show`: the limits of files, and those that a process uses."""

import json
from pathlib import Path

import pytest

from sidecars.services.xds.limits import SentLimits, keep
from tests.sidecars.cli.test_limits_explain import settings_file
from tests.support.command import command
from tests.support.running import SIDECARS, Running

LIMITS = """
domain: edge
descriptors:
  - key: address
    rate_limit: {period: 30s, requests_per_unit: 10, burst: 20, name: address, cost: 2, charge_rejected: true}
  - key: route
    value: login
    descriptors:
      - key: address
        shadow_mode: true
        rate_limit: {unit: month, requests_per_unit: 5, algorithm: fixed_window, on_failure: closed}
  - {key: plan, quota_mode: true, rate_limit: {period: month, requests_per_unit: 7}}
  - {key: friend, rate_limit: {unlimited: true, replaces: [{name: address}]}}
"""


def limits_file(folder: Path) -> Path:
    file = folder / "limits.yaml"
    file.write_text(LIMITS)
    return file


def test_a_tree_has_every_limit_with_its_place(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    limits_file(tmp_path)
    done = command(file, "limits", "show")
    assert done.returncode == 0, done.stderr
    text = "".join(done.stdout.replace("│", "").split())  # long lines are folded
    for words in (
        "edge",
        "address: 10 per 30 seconds, token_bucket, burst 20, cost 2, charge_rejected, on_failure local",
        "on_failure local, name address",
        f"{tmp_path}/limits.yaml:4",
        "route_login └── address: 5 per month, fixed_window, shadow_mode, on_failure closed",
        "plan: 7 per calendar month, fixed_window, quota_mode, on_failure local",
        "friend: unlimited, replaces address",
    ):
        assert words.replace(" ", "") in text


def test_json_has_one_object_a_rule(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    limits_file(tmp_path)
    data = json.loads(command(file, "limits", "show", "--json").stdout)
    assert data["domains"] == ["edge"]
    rules = {rule["rule"]: rule for rule in data["rules"]}
    assert list(rules) == ["edge.address", "edge.route_login.address", "edge.plan", "edge.friend"]
    assert rules["edge.address"] == {
        "rule": "edge.address",
        "domain": "edge",
        "path": ["address"],
        "limit": "10 per 30 seconds, token_bucket, burst 20, cost 2, charge_rejected, on_failure local",
        "requests_per_unit": 10,
        "period": "30s",
        "algorithm": "token_bucket",
        "concurrency": None,
        "release_after_seconds": None,
        "burst": 20,
        "cost": 2,
        "charge_rejected": True,
        "on_failure": "local",
        "lease": False,
        "ban": None,
        "priority": "normal",
        "shadow_mode": False,
        "quota_mode": False,
        "name": "address",
        "replaces": [],
        "source": f"{tmp_path}/limits.yaml:4",
    }
    periods = [rule["period"] for rule in rules.values()]
    assert periods == ["30s", "30d", "month", None]


def test_a_running_process_shows_what_it_uses(tmp_path: Path) -> None:
    """After a bad change of the files: they have problems, and the process keeps the good limits."""
    limits_file(tmp_path)
    ratelimit = {"listen": [f"unix:{tmp_path}/s"], "limits": [str(tmp_path / "limits.yaml")]}
    with Running(tmp_path, {"ratelimit": ratelimit}, program=SIDECARS) as process:
        process.wait_until_ready()
        file = process.file
        (tmp_path / "limits.yaml").write_text("domain: edge\ndescriptors: [{key: ''}]\n")
        assert command(file, "limits", "show").returncode == 1
        done = command(file, "limits", "show", "--json", "--running")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rules"][0]["rule"] == "edge.address"
    stopped = command(file, "limits", "show", "--running")
    assert stopped.returncode == 1
    assert "does not answer" in stopped.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["limits.yaml"], "give one of --config, --compat and files")],
)
def test_bad_usage_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    file = settings_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = command(file, "limits", "show", *arguments)
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.replace("│", " ").split())


def test_limits_that_a_management_server_sent_are_shown_as_they_are_kept(tmp_path: Path) -> None:
    keep(SentLimits("7", (("edge", LIMITS),)), tmp_path / "kept.json")
    file = tmp_path / "sidecars.yaml"
    xds = "{server: 'control-plane:18000', state_file: kept.json}"
    file.write_text(f"ratelimit: {{listen: ['unix:r'], xds: {xds}}}\n")
    data = json.loads(command(file, "limits", "show", "--json").stdout)
    assert data["rules"][0]["source"] == "xds/edge:4"
    explained = command(file, "limits", "explain", "--domain", "edge", "address=1")
    assert "edge.address" in explained.stdout
