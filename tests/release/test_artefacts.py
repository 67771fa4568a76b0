"""A commit gives the same sdist and wheel everywhere."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from release.artefacts import BuildError, build, write_checksums

ROOT = Path(__file__).parents[2]
BUILD = """
import os, sys
from pathlib import Path
from release.artefacts import build
os.umask(int(sys.argv[1], 8))
build(*map(Path, sys.argv[2:3]), "HEAD", *map(Path, sys.argv[3:]))
"""


def build_on_a_machine(folder: Path, umask: str, zone: str) -> dict[str, bytes]:
    """Return the artefacts of a clone that another user of another machine made."""
    clone, dist, work = folder / "clone", folder / "dist", folder / "work"
    folder.mkdir()
    subprocess.run(
        ["sh", "-c", f'umask {umask}; exec git clone --quiet "$0" "$1"', ROOT, clone],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [sys.executable, "-c", BUILD, umask, clone, dist, work],
        cwd=ROOT,
        env={**os.environ, "TZ": zone, "SOURCE_DATE_EPOCH": "1"},
        check=True,
        capture_output=True,
    )
    return {file.name: file.read_bytes() for file in dist.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build_on_a_machine(tmp_path_factory.mktemp("machines") / "one", "022", "UTC")


def test_a_commit_gives_the_same_bytes_in_another_folder_umask_and_time_zone(
    built: dict[str, bytes], tmp_path: Path
) -> None:
    other = build_on_a_machine(tmp_path / "another folder", "077", "Pacific/Auckland")
    assert {name.rpartition(".")[2] for name in built} == {"gz", "whl"}
    assert other == built


def test_the_archives_have_the_time_of_the_commit(built: dict[str, bytes], tmp_path: Path) -> None:
    shown = subprocess.run(
        ["git", "show", "--no-patch", "--format=%ct", "HEAD"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = int(shown.stdout)
    for name, content in built.items():
        file = tmp_path / name
        file.write_bytes(content)
        if name.endswith(".gz"):
            with tarfile.open(file) as archive:
                assert {member.mtime for member in archive} == {seconds}
        else:
            times = {info.date_time for info in zipfile.ZipFile(file).infolist()}
            assert len(times) == 1


def test_what_is_not_committed_is_not_built(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "thing").mkdir(parents=True)
    (repository / "thing" / "__init__.py").touch()
    (repository / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "thing"\nversion = "1"\n'
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=repository, check=True, capture_output=True)
    (repository / "thing" / "secret.py").touch()
    artefacts = build(repository, "HEAD", tmp_path / "dist", tmp_path / "work")
    names = zipfile.ZipFile(artefacts.wheel).namelist()
    assert [name for name in names if name.startswith("thing/")] == ["thing/__init__.py"]
    with tarfile.open(artefacts.sdist) as archive:
        assert "thing-1/thing/secret.py" not in archive.getnames()


def test_a_commit_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no-such-commit"):
        build(ROOT, "no-such-commit", tmp_path / "dist", tmp_path / "work")


def test_the_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    write_checksums([tmp_path / "b", tmp_path / "a"], tmp_path)
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert checked.stdout == "a: OK\nb: OK\n"
