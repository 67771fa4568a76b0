"""The files in deploy/machine: units, settings, and what cloud-init writes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from authz.policy.model import PolicyFile
from sidecars.demo.envoy import find_envoy, scripts_folder
from tests.deploy.test_kubernetes import BASE, for_a_pod
from tests.support.envoy_config import check_configuration
from tests.support.manifests import ROOT

MACHINE = ROOT / "deploy" / "machine"
UNITS = (ROOT / "deploy" / "edge-sidecars.service", MACHINE / "envoy.service")
MAX_EXPOSURE = 25
"""In tenths, as systemd-analyze counts; a unit without hardening has 96."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_a_unit_and_finds_it_hardened(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    # systemd-analyze checks that the programs exist.
    copy.write_text(re.sub(r"/opt/\w+/bin/\w+", "/bin/true", unit.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False
    )
    problems = [line for line in verified.stderr.splitlines() if copy.name in line]
    # systemd before 253 does not know this type; edge-sidecars.service is not installed here.
    known = ("ignoring: notify-reload", "Unit edge-sidecars.service not found.")
    assert [line for line in problems if not line.endswith(known)] == []
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-300:]


def test_the_configuration_is_that_of_the_examples() -> None:
    wanted = for_a_pod((ROOT / "envoy-test" / "envoy.yaml").read_text()).replace("for a pod", "for a machine")
    assert (MACHINE / "edge" / "envoy.yaml").read_text() == wanted.replace(
        "upstream.default.svc.cluster.local", "upstream.internal"
    )
    for name in ("policy.yaml", "limits.yaml"):
        assert (MACHINE / "edge" / "sidecars" / name).read_text() == (BASE / name).read_text()


@pytest.mark.envoy
async def test_envoy_accepts_the_configuration() -> None:
    program = find_envoy(os.environ, scripts_folder())
    assert await check_configuration(program, MACHINE / "edge" / "envoy.yaml") == ""


def test_cloud_init_writes_a_policy_that_loads() -> None:
    text = (MACHINE / "cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n")
    [written] = yaml.safe_load(text)["write_files"]
    assert written["path"] == "/etc/sidecars/policy.yaml"
    policy = PolicyFile.model_validate(yaml.safe_load(written["content"]))
    assert [rule.name for rule in policy.rules] == ["public"]


def test_the_scripts_of_cloud_init_and_packer_are_shell(tmp_path: Path) -> None:
    stock = (MACHINE / "cloud-init-stock.yaml").read_text()
    [[_, _, script]] = yaml.safe_load(stock)["runcmd"]
    for name, text in {
        "stock": script,
        "provision": (MACHINE / "provision").read_text(),
        "gather": (MACHINE / "gather").read_text(),
    }.items():
        file = tmp_path / name
        file.write_text(text)
        subprocess.run(["bash", "-n", file], check=True)
    packer = (MACHINE / "edge.pkr.hcl").read_text()
    assert packer.count("{") == packer.count("}")
    assert "/tmp/edge/provision /tmp/edge" in packer
