"""The configurations in docs/deployment.md and deploy/ work as written."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest
import yaml

from sidecars.demo.envoy import find_envoy, scripts_folder
from sidecars.process.lifecycle import drain_at_most_seconds
from sidecars.settings.load import load_settings
from sidecars.settings.process import DrainSettings
from tests.support.authority import Authority
from tests.support.envoy_config import (
    blocks,
    check_configuration,
    envoy_blocks,
    listener,
    with_service,
)

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "edge-sidecars.service"


def test_the_settings_of_several_workers_load(tmp_path: Path) -> None:
    file = tmp_path / "sidecars.yaml"
    file.write_text(blocks("yaml")[0])
    settings = load_settings(file, {})
    assert (settings.workers, settings.transport) == (2, "native")


def test_the_settings_with_tls_load(tmp_path: Path) -> None:
    file = tmp_path / "sidecars.yaml"
    file.write_text(blocks("yaml")[3])
    authz = load_settings(file, {}).authz
    assert authz is not None
    (address,) = authz.listen
    assert address.tls is not None
    assert len(address.tls.files) == 3


@pytest.mark.envoy
async def test_envoy_accepts_the_cluster_and_the_service(tmp_path: Path) -> None:
    cluster, service = envoy_blocks()
    cluster |= yaml.safe_load(blocks("yaml")[4].replace("/etc/envoy/tls", str(tmp_path)))
    authority = Authority("sidecars")
    pair = authority.sign("envoy")
    (tmp_path / "envoy.pem").write_bytes(pair.certificate)
    (tmp_path / "envoy.key").write_bytes(pair.key)
    (tmp_path / "sidecars-ca.pem").write_bytes(authority.certificate)
    resources = {"listeners": [listener(with_service(service))], "clusters": [cluster]}
    file = tmp_path / "envoy.json"
    file.write_bytes(orjson.dumps({"static_resources": resources}))
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        strict=False, interpolation=None
    )  # the last line applies, as in systemd
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_waits_longer_than_a_drain_takes() -> None:
    seconds = float(unit()["Service"]["TimeoutStopSec"].removesuffix("s"))
    assert seconds > drain_at_most_seconds(DrainSettings()) + 2  # the supervisor's own margin


def test_the_unit_is_told_by_notification_and_signals_the_supervisor_alone() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify-reload"
    assert service["KillMode"] == "mixed"


def test_a_systemd_that_does_not_know_the_type_keeps_one_with_readiness() -> None:
    """Before 253 systemd ignores `notify-reload` and uses the line before it."""
    types = [line for line in UNIT.read_text().splitlines() if line.startswith("Type=")]
    assert types == ["Type=notify", "Type=notify-reload"]


def test_what_the_pages_log_to_is_what_the_unit_may_write() -> None:
    folder = f"/var/log/{unit()['Service']['LogsDirectory']}"
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    logs = {log for page in pages for log in re.findall(r"/var/log/[\w./{}-]+\.jsonl", page.read_text())}
    assert logs
    assert {str(Path(log).parent) for log in logs} == {folder}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # systemd-analyze checks that the programs exist.
    copy.write_text(UNIT.read_text().replace("/opt/sidecars/bin/sidecars", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    problems = [line for line in found.stderr.splitlines() if copy.name in line]
    # systemd before 253 does not know this type.
    assert [line for line in problems if not line.endswith("ignoring: notify-reload")] == []
