"""Each extra works with nothing installed but what its metadata asks for."""

import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from release.dependencies import PROJECT, ROOT, closure
from sidecars.cli.conflicts import PACKAGES
from tests.support.extras import COMMAND_LINE, FEATURES

SITE = Path(sysconfig.get_path("purelib"))


def link_distributions(names: list[str], folder: Path) -> None:
    """Make `folder` a place for imports that has the files of these distributions and our packages alone."""
    for package in PACKAGES:
        (folder / package).symlink_to(ROOT / package)
    for name in names:
        try:
            files = distribution(name).files
        except PackageNotFoundError:
            continue  # needed by another Python only
        for file in files or ():
            target = folder / file
            if ".." in file.parts or file.name.endswith((".pyc", ".pth")):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(SITE / file)


def run(folder: Path, work: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that imports from `folder` and the standard library alone."""
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", program, *arguments],
        cwd=work,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


def test_without_an_extra_the_command_works(packages: Path, tmp_path: Path) -> None:
    link_distributions([name for name in closure(PROJECT["name"]) if name != PROJECT["name"]], packages)
    example = str(ROOT / "examples" / "sidecars.yaml")
    checked = run(packages, tmp_path, COMMAND_LINE, "config", "check", "--offline", example)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.endswith(": ok (authz, ratelimit, accesslog)\n")


@pytest.mark.parametrize("extra", FEATURES)
def test_an_extra_alone_is_enough_for_its_feature(extra: str, packages: Path, tmp_path: Path) -> None:
    link_distributions(
        [name for name in closure(PROJECT["name"], {extra}) if name != PROJECT["name"]], packages
    )
    used = run(packages, tmp_path, FEATURES[extra])
    assert used.stdout.endswith("worked\n"), used.stderr
    assert used.returncode == 0


@pytest.mark.parametrize("extra", FEATURES)
def test_without_the_extra_the_feature_is_not_there(extra: str, packages: Path, tmp_path: Path) -> None:
    """Shows that the test above can fail."""
    link_distributions([name for name in closure(PROJECT["name"]) if name != PROJECT["name"]], packages)
    used = run(packages, tmp_path, FEATURES[extra])
    assert used.returncode != 0 or not used.stdout.endswith("worked\n")
