"""deploy/machine/provision makes an edge of a bare Debian: it runs in a chroot, twice."""

import shutil
import subprocess
from pathlib import Path

import pytest

from release.artefacts import build
from release.dependencies import PROJECT
from tests.shipping.test_image import debian, pytestmark
from tests.support.dockerfile import inside
from tests.support.manifests import ROOT

__all__ = ["debian", "pytestmark"]

MACHINE = ROOT / "deploy" / "machine"


@pytest.fixture(scope="module")
def machine(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree of a provisioned machine."""
    work = tmp_path_factory.mktemp("machine")
    root = work / "root"
    subprocess.run(["cp", "-a", debian, root], check=True)
    wheel = build(ROOT, "HEAD", work / "dist", work / "work").wheel
    subprocess.run([MACHINE / "gather", wheel, root / "tmp" / "edge"], check=True)
    inside(root, ["/tmp/edge/provision", "/tmp/edge"], {})
    return root


def test_the_programs_work_and_belong_to_root(machine: Path) -> None:
    assert inside(machine, ["/opt/sidecars/bin/sidecars", "version"], {}).strip() == PROJECT["version"]
    assert "version:" in inside(machine, ["/opt/envoy/bin/envoy", "--version"], {})
    others = inside(
        machine, ["find", "/opt", "!", "-user", "root", "-o", "-perm", "-o=w", "!", "-type", "l"], {}
    )
    assert others == ""


def test_the_units_start_with_the_machine_and_the_new_systemd_accepts_them(machine: Path) -> None:
    for unit in ("edge-sidecars.service", "envoy.service"):
        assert inside(machine, ["systemctl", "is-enabled", unit], {}).strip() == "enabled"
        inside(machine, ["systemd-analyze", "verify", f"/etc/systemd/system/{unit}"], {})
        inside(machine, ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit], {})
    version = int(inside(machine, ["systemctl", "--version"], {}).split()[1])
    assert version >= 253, "this test is for a systemd that knows notify-reload"


def test_services_can_read_their_configuration_and_not_that_of_the_other(machine: Path) -> None:
    for user, file, readable in (
        ("sidecars", "/etc/sidecars/sidecars.yaml", True),
        ("envoy", "/etc/envoy/envoy.yaml", True),
        ("sidecars", "/etc/envoy/envoy.yaml", False),
        ("daemon", "/etc/sidecars/policy.yaml", False),
    ):
        told = inside(
            machine,
            ["runuser", "-u", user, "--", "sh", "-c", f"cat {file} >/dev/null 2>&1 && echo yes || echo no"],
            {},
        )
        assert told.strip() == ("yes" if readable else "no"), (user, file)


def test_a_second_run_keeps_the_configuration(machine: Path) -> None:
    policy = machine / "etc" / "sidecars" / "policy.yaml"
    policy.write_text("rules: [{name: mine, paths: [/mine], allow: anyone}]\n")
    inside(machine, ["/tmp/edge/provision", "/tmp/edge"], {})
    assert "mine" in policy.read_text()
    assert shutil.which("systemctl", path=str(machine / "usr" / "bin"))
