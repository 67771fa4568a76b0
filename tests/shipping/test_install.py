"""The built artefacts work as users install them: with uv, with pipx, each extra alone, as a release."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from release.artefacts import build
from release.dependencies import FEATURES as FEATURES_OF_USERS
from release.dependencies import PROJECT, ROOT, closure
from release.installed import Environment
from release.signing import verify
from tests.release.test_signing import SIGNER, new_key
from tests.support.extras import FEATURES
from tests.test_wheel import pip

VERSION = PROJECT["version"]
NAME = PROJECT["name"]
LOCK = ROOT / "constraints.txt"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, "HEAD", folder, tmp_path_factory.mktemp("work"))
    return folder


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands uv and pipx."""
    environment = Environment(tmp_path_factory.mktemp("tools"))
    pip("--python", environment.python, "install", "--quiet", "uv", "pipx")
    return environment.python.parent


def run(*command: str | Path, **variables: str | Path) -> str:
    """Return what the command prints; fail if it fails."""
    # uv, which pipx uses, too, does not trust the authorities of the system by itself, as pip does.
    own = {"UV_SYSTEM_CERTS": "true"}
    environment = {**os.environ, **own, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def index() -> str:
    """Return the package index that pip uses, which uv does not read from pip's configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return os.environ.get("PIP_INDEX_URL") or done.stdout.strip()


def test_uv_tool_install(dist: Path, tools: Path, tmp_path: Path) -> None:
    folders = {"UV_TOOL_DIR": tmp_path / "tools", "UV_TOOL_BIN_DIR": tmp_path / "bin"}
    variables: dict[str, str | Path] = {**folders, **({"UV_DEFAULT_INDEX": index()} if index() else {})}
    [wheel] = dist.glob("*.whl")
    python = ["--python", sys.executable]
    run(tools / "uv", "tool", "install", "-q", *python, "--constraints", LOCK, f"{wheel}[demo]", **variables)
    assert run(tmp_path / "bin" / "sidecars", "version") == f"{VERSION}\n"
    run(tmp_path / "bin" / "sidecars", "demo", "--once")


def test_pipx_install(dist: Path, tools: Path, tmp_path: Path) -> None:
    folders = {"PIPX_HOME": tmp_path / "pipx", "PIPX_BIN_DIR": tmp_path / "bin"}
    [sdist] = dist.glob("*.tar.gz")
    python = ["--python", sys.executable]
    run(tools / "pipx", "install", "-q", *python, f"--pip-args=-c {LOCK}", sdist, **folders)
    assert run(tmp_path / "bin" / "sidecars", "version") == f"{VERSION}\n"


@pytest.mark.parametrize("extra", FEATURES)
def test_an_extra_installed_alone_works(extra: str, dist: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    environment.install(f"{NAME}[{extra}]=={VERSION}", dist)
    work = tmp_path / "work"
    work.mkdir()
    assert environment.run([environment.python, "-P", "-c", FEATURES[extra]], work).endswith("worked\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone whose CHANGELOG has a section for the version, committed."""
    folder = tmp_path / "clone"
    run("git", "clone", "--quiet", ROOT, folder)
    shutil.copytree(ROOT / "release", folder / "release", dirs_exist_ok=True)
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    changelog.write_text(text.replace("## Unreleased", f"## {VERSION} - 2026-01-01"), encoding="utf-8")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message", "Release")
    return folder


def test_a_release_is_built_tried_and_signed(clone: Path, tmp_path: Path) -> None:
    if shutil.which("cyclonedx-py", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs cyclonedx-py: pip install -c constraints.txt -e '.[release]'")
    key, allowed = new_key(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "release", "--key", key],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dist = clone / "dist"
    sums = dist / "SHA256SUMS"
    verify(sums, dist / "SHA256SUMS.sig", allowed, SIGNER)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, check=True, capture_output=True
    )
    signed = {line.split()[1] for line in sums.read_text().splitlines()}
    assert signed == {file.name for file in dist.iterdir()} - {"SHA256SUMS", "SHA256SUMS.sig"}
    assert len(signed) == 4
    check_materials((dist / f"edge_sidecars-{VERSION}.cdx.json").read_text(encoding="utf-8"))


def check_materials(text: str) -> None:
    """Compare a bill of materials with what the metadata of the installed distributions asks for."""
    components = json.loads(text)["components"]
    names = {canonicalize_name(one["name"]) for one in components}
    wanted = set(closure(NAME, FEATURES_OF_USERS)) - {NAME}
    assert wanted - names <= {"async-timeout"}, "only Pythons before 3.11.3 need it"
    assert names <= wanted
    assert [one["name"] for one in components if not one.get("licenses")] == []
    assert "file:" not in text
