"""Reloading, seen from outside: a real process whose files change."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import ANSWER, SIDECARS, Running, call, connect, probe_section

RULES = "rules: [{name: a, paths: [/a], allow: anyone}]\n"


RELOADS = 'sidecars_config_reload_total{sidecar="authz"}'


FAILURES = 'sidecars_config_reload_failures_total{sidecar="authz"}'


def replace(path: Path, text: str) -> None:
    """Put `text` there in one step: on a loaded machine a file stays empty for a while between two."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def test_a_changed_file_is_reloaded(running: Running, channel: Any, policy: Path) -> None:
    replace(policy, "answer: two\nrevision: '2'\n")
    running.wait_until(lambda: call(channel, ANSWER) == b"two")
    running.wait_until(
        lambda: running.metric('sidecars_config_revision_info{revision="2",sidecar="authz"}') == 1
    )
    assert running.metric('sidecars_config_revision_info{revision="1",sidecar="authz"}') is None
    assert running.metric(RELOADS) == 1
    assert running.config()["sidecars"]["authz"]["last_reload"]["ok"] is True


def test_a_file_that_changes_while_the_process_starts_is_reloaded(tmp_path: Path, policy: Path) -> None:
    environ = {"PROBE_FILE_BECOMES": "answer: two\n"}
    with (
        Running(tmp_path, {"authz": probe_section(tmp_path)}, environ=environ) as running,
        connect(f"unix:{tmp_path}/s") as channel,
    ):
        running.wait_until_ready()
        running.wait_until(lambda: call(channel, ANSWER) == b"two")


def test_a_swapped_link_is_reloaded_as_kubernetes_swaps_it(tmp_path: Path) -> None:
    (tmp_path / "..v1").mkdir()
    (tmp_path / "..v1" / "policy.yaml").write_text("answer: one\n")
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    with (
        Running(tmp_path, {"authz": probe_section(tmp_path)}) as running,
        connect(f"unix:{tmp_path}/s") as channel,
    ):
        running.wait_until_ready()
        (tmp_path / "..v2").mkdir()
        (tmp_path / "..v2" / "policy.yaml").write_text("answer: two\n")
        (tmp_path / "..new").symlink_to("..v2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        running.wait_until(lambda: call(channel, ANSWER) == b"two")


def test_sighup_reloads_without_a_change(running: Running) -> None:
    running.signal(signal.SIGHUP)
    running.wait_until(lambda: running.metric(RELOADS) == 1)
    running.wait_until(lambda: "configuration reloaded" in running.events())


def test_a_bad_file_never_replaces_a_good_one(running: Running, channel: Any, policy: Path) -> None:
    replace(policy, "answer: [1]\nextra: 1\n")
    running.wait_until(lambda: running.metric(FAILURES) == 1)
    assert call(channel, ANSWER) == b"one"
    assert running.get("/readyz")[0] == 200
    reload = running.config()["sidecars"]["authz"]["last_reload"]
    assert reload["ok"] is False
    assert [problem.split(": ")[:2] for problem in reload["problems"]] == [
        [f"{policy}:1", "answer"],
        [f"{policy}:2", "extra"],
    ]
    (line,) = [line for line in running.log if line["level"] == "error"]
    assert line["problems"] == reload["problems"]

    replace(policy, "answer: two\n")
    running.wait_until(lambda: call(channel, ANSWER) == b"two")
    running.wait_until(lambda: running.config()["sidecars"]["authz"]["last_reload"]["ok"])
    assert running.metric(FAILURES) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_problem_of_the_settings_at_a_reload_has_its_line(tmp_path: Path, workers: int) -> None:
    policy, limits = tmp_path / "policy.yaml", tmp_path / "limits.yaml"
    policy.write_text(RULES)
    limits.write_text("domain: edge\n")
    settings: dict[str, Any] = {
        "authz": {"listen": [f"unix:{tmp_path}/a.{{worker}}"], "policy": ["policy.yaml"]},
        "ratelimit": {"listen": [f"unix:{tmp_path}/r.{{worker}}"], "limits": ["limits.yaml"]},
        "workers": workers,
    }
    event = "configuration refused; the last good one serves on"
    with Running(tmp_path, settings, program=SIDECARS) as running:
        running.wait_until_ready()
        replace(policy, f"credentials: {{sessions: {{store: redis}}}}\n{RULES}")
        limits.unlink()
        running.wait_until(lambda: running.events().count(event) >= 2 * workers)
        refused = [line for line in running.log if line["event"] == event]
    number = 1 + next(
        i for i, line in enumerate(running.file.read_text().splitlines()) if "limits.yaml" in line
    )
    result = {line["sidecar"]: line["problems"][0] for line in refused}
    assert result["authz"].startswith(f"{running.file}:1: redis: is required by credentials.sessions.store")
    assert result["ratelimit"].startswith(
        f"{running.file}:{number}: ratelimit.limits[0]: {limits}: cannot be"
    )


def test_a_bad_file_is_refused_once_and_not_at_every_look(running: Running, policy: Path) -> None:
    replace(policy, "nonsense\n")
    running.wait_until(lambda: running.metric(FAILURES) == 1)
    running.signal(signal.SIGHUP)
    running.wait_until(lambda: running.metric(FAILURES) == 2)
    assert running.metric(RELOADS) == 2
