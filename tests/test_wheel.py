"""The wheel runs in its own environment, and refuses one shared with a package of the same name."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from sidecars.cli.conflicts import PACKAGES, check_environment
from sidecars.observability.process_metrics import package_version

ROOT = Path(__file__).parent.parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def pip(*arguments: str | Path) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> Path:
    """Create a fresh environment with the wheel, and the dependencies of this environment."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # A plain path entry: .pth files in that folder, including our editable install, are not read.
    (Path(packages) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


def test_the_wheel_holds_the_packages_that_are_checked_and_no_others(wheel: Path) -> None:
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_the_pages_of_the_console(wheel: Path) -> None:
    folder = ROOT / "sidecars" / "console"
    wanted = {
        f"sidecars/console/{kind}/{file.name}"
        for kind in ("templates", "static")
        for file in (folder / kind).iterdir()
    }
    assert len(wanted) > 10
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_files_of_the_demo(wheel: Path) -> None:
    folder = ROOT / "sidecars" / "demo" / "files"
    wanted = {str(file.relative_to(ROOT)) for file in folder.rglob("*.*") if "__pycache__" not in file.parts}
    assert "sidecars/demo/files/login/app.py" in wanted
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def test_an_installed_wheel_runs(environment: Path) -> None:
    sidecars = environment / "bin" / "sidecars"
    version = run(sidecars, "version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{package_version()}\n", "")
    checked = run(sidecars, "config", "check", "--offline", "examples/sidecars.yaml")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == "examples/sidecars.yaml: ok (authz, ratelimit, accesslog)\n"
    where = run(environment / "bin" / "python", "-P", "-c", "import ratelimit; print(ratelimit.__file__)")
    assert Path(where.stdout).is_relative_to(environment)


def test_a_distribution_that_shares_a_package_is_refused(environment: Path, tmp_path: Path) -> None:
    other = tmp_path / "ratelimit-2.2.1-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("ratelimit/__init__.py", "limits = print\n")
        about = "ratelimit-2.2.1.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: ratelimit\nVersion: 2.2.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"ratelimit/__init__.py,,\n{about}/RECORD,,\n")
    pip("--python", environment / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index", other)
    sidecars = environment / "bin" / "sidecars"
    for command in (
        ("config", "check", "examples/sidecars.yaml"),
        ("run", "all", "--config", "examples/sidecars.yaml"),
        ("demo", "--once"),
    ):
        refused = run(sidecars, *command)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            "sidecars: the distribution ratelimit 2.2.1 in this environment has files in the package "
            "ratelimit of edge-sidecars, and may have replaced some; install edge-sidecars into an "
            "environment of its own, as `pipx install` and `uv tool install` do\n"
        )


def test_this_environment_is_ours_alone() -> None:
    check_environment()
