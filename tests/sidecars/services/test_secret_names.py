"""Every name that a policy reads a credential from is redacted in both logs."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from prometheus_client import CollectorRegistry

from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder
from common.configfile import ConfigError
from common.redaction import NO_NAMES, REDACTED, SecretNames
from sidecars.cli.serve import _dependencies
from sidecars.process.assembly import build as build_all
from sidecars.services.accesslog import AccesslogSidecar, build
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.load import load_settings
from tests.support.authz_sidecar import Built
from tests.support.checks import check_request
from tests.support.entries import http_entry, message

SECRET = "hunter2"

CREDENTIALS = """
credentials:
  sessions:
    store: memory
    locations: [{cookie: my_session}, {query: resume}]
  api_keys:
    locations: [{header: x-partner-pass}]
    keys: [{id: a, sha256: "0000000000000000000000000000000000000000000000000000000000000000", subject: a}]
"""
RULES = """
rules: [{name: all, paths: ["/{rest=**}"], allow: anyone}]
"""


def dependencies(*policy: Path, names: SecretNames = NO_NAMES) -> Dependencies:
    registry = CollectorRegistry()
    return Dependencies(registry, time.time, time.monotonic, lambda: 0.5, None, policy, names)


def settings(**redact: Any) -> AccesslogSettings:
    return AccesslogSettings.model_validate({"listen": ["127.0.0.1:0"], "redact": redact})


def record(sidecar: AccesslogSidecar) -> dict[str, Any]:
    entry = http_entry(
        path=f"/a?resume={SECRET}", tags={"my_session": SECRET}, request_headers={"x-partner-pass": SECRET}
    )
    intake = EntryDecoder(sidecar._rules, EntryCounters(), lambda: 0.0, lambda: 0.5)
    [block] = intake.read(message(entry).SerializeToString())
    result: dict[str, Any] = orjson.loads(block.lines[0])
    return result


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Two files, one of which includes the other."""
    (tmp_path / "credentials.yaml").write_text(CREDENTIALS)
    file = tmp_path / "policy.yaml"
    file.write_text(f"include: credentials.yaml\n{RULES}")
    return file


def test_without_a_policy_they_are_names_like_others() -> None:
    assert str(record(build(settings(), dependencies()))).count(SECRET) == 3


def test_the_policy_of_authz_is_known_without_a_setting(policy: Path) -> None:
    result = record(build(settings(), dependencies(policy)))
    assert SECRET not in str(result)
    assert result["query"] == f"resume={REDACTED}"


def test_a_process_with_the_access_log_alone_learns_the_policy(policy: Path) -> None:
    assert SECRET not in str(record(build(settings(policy=[str(policy)]), dependencies())))


def test_names_that_are_added_to_the_policy_are_redacted_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(RULES)
    sidecar = build(settings(policy=[str(file)]), dependencies())
    assert file in sidecar.watched_files
    assert SECRET in str(record(sidecar))
    file.write_text(CREDENTIALS + RULES)
    rules = sidecar._rules
    sidecar.prepare()
    assert sidecar._rules is rules  # until the swap, which the loop does
    file.write_text("rules: [")
    with pytest.raises(ConfigError):
        sidecar.prepare()
    assert sidecar._rules is rules


def test_a_policy_that_cannot_be_read_is_a_problem_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        build(settings(policy=[str(tmp_path / "none.yaml")]), dependencies())


def test_the_settings_hand_each_what_the_other_knows(policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "sidecars.yaml"
    sections = {
        "authz": {"listen": ["unix:a.sock"], "policy": [policy.name]},
        "accesslog": {"listen": ["unix:b.sock"], "redact": {"query_parameters": ["mine"]}},
    }
    file.write_text(yaml.safe_dump(sections))
    read = load_settings(file, {})
    around = _dependencies(read)
    assert around.policy == (policy,)
    assert around.secret_names.query_parameters == {"mine"}
    [placed] = build_all(read, ["accesslog"], around)
    assert isinstance(placed.sidecar, AccesslogSidecar)
    assert SECRET not in str(record(placed.sidecar))
    assert policy in placed.before.files


def test_a_problem_of_the_policy_is_reported_once(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "credentials.yaml").write_text("credentials: {sessions: {stor: memory}}")
    file = tmp_path / "sidecars.yaml"
    sections = {
        "authz": {"listen": ["unix:a.sock"], "policy": [policy.name]},
        "accesslog": {"listen": ["unix:b.sock"]},
    }
    file.write_text(yaml.safe_dump(sections))
    read = load_settings(file, {})
    with pytest.raises(ConfigError) as caught:
        build_all(read, ["authz", "accesslog"], _dependencies(read))
    result = [str(problem) for problem in caught.value.problems]
    assert len(result) == len(set(result))


async def test_the_decision_log_redacts_them_too(tmp_path: Path) -> None:
    built = Built(tmp_path, policy=CREDENTIALS + RULES)
    built.ask(check_request(path=f"/a;resume={SECRET}/b"))
    [result] = await built.shown()
    assert result["path"] == f"/a;resume={REDACTED}/b"
    built.file.write_text(CREDENTIALS.replace("resume", "again") + RULES)
    built.sidecar.prepare()()
    built.ask(check_request(path=f"/a;again={SECRET}/b"))
    assert (await built.shown())[0]["path"] == f"/a;again={REDACTED}/b"
