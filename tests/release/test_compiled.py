"""The compiled wheel: the same files and version, with extension modules that Python prefers where it can."""

import ast
import importlib
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import lru_cache
from release.compiled import MODULES, _pack, main, missing, platform_tag
from sidecars.cli.conflicts import PACKAGES
from sidecars.observability.process_metrics import is_compiled, package_version

ROOT = Path(__file__).parents[2]


def classes(file: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef))


def imported_names(file: Path) -> dict[str, str]:
    """The file that each name comes from, of those that are imported from another module."""
    return {
        name.asname or name.name: f"{node.module.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for name in node.names
    }


def test_each_module_is_listed_once_and_exists() -> None:
    assert len(set(MODULES)) == len(MODULES)
    assert all((ROOT / name).is_file() for name in MODULES)


def test_every_subclass_of_a_compiled_class_is_compiled() -> None:
    """Python refuses a subclass that is not: the first request that needs it would fail."""
    compiled = {(name, one.name) for name in MODULES for one in classes(ROOT / name)}
    interpreted = [
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if str(file.relative_to(ROOT)) not in MODULES and not file.name.endswith("_pb2.py")
    ]
    found = [
        f"{file.relative_to(ROOT)}: {one.name}"
        for file in interpreted
        for names in [imported_names(file)]
        for one in classes(file)
        for base in one.bases
        if isinstance(base, ast.Name) and (names.get(base.id, ""), base.id) in compiled
    ]
    assert found == []


def test_this_build_is_told_by_a_module_that_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "common/lru_cache.py" in MODULES
    monkeypatch.setattr(lru_cache, "__file__", "common/lru_cache.cpython-311-x86_64-linux-gnu.so")
    assert is_compiled()


def test_a_build_is_compiled_as_a_whole_or_not_at_all() -> None:
    files = [str(importlib.import_module(name[:-3].replace("/", ".")).__file__) for name in MODULES]
    assert {file.endswith(".py") for file in files} == {not is_compiled()}


def test_a_machine_without_a_compiler_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([f"--into={tmp_path}"]) == 3
    assert capsys.readouterr().err.startswith("skipped: a compiled wheel needs a C compiler, ")


def test_the_wheel_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    about = "edge_sidecars-1.dist-info"
    files = {
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/METADATA": "Metadata-Version: 2.4\nName: edge-sidecars\nVersion: 1\n",
        f"{about}/RECORD": "",
        "authz/__init__.py": "",
        "authz/wire.so": "machine code",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644)
    wheel = tmp_path / f"edge_sidecars-1-{platform_tag()}.whl"
    _pack(tmp_path, files, wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == set(files)
        assert "Root-Is-Purelib: false" in archive.read(f"{about}/WHEEL").decode()
        assert f"Tag: {platform_tag()}\n" in archive.read(f"{about}/WHEEL").decode()
        record = archive.read(f"{about}/RECORD").decode().splitlines()
        assert {one.external_attr >> 16 for one in archive.infolist()} == {stat.S_IFREG | 0o644}
    assert len(record) == len(files)
    assert f"{about}/RECORD,," in record
    assert "authz/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0" in record


@pytest.mark.skipif(not os.environ.get("TEST_ALL"), reason="takes minutes: set TEST_ALL=1")
@pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}")
@pytest.mark.timeout(3600)
def test_the_compiled_wheel_has_the_files_of_the_pure_one_and_answers(tmp_path: Path) -> None:
    assert main([f"--into={tmp_path}"]) == 0
    [wheel] = tmp_path.glob(f"edge_sidecars-{package_version()}-{platform_tag()}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.removesuffix(".py") for name in MODULES} < {name.partition(".")[0] for name in names}
    assert set(MODULES) < set(names)
    folder = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--target", folder, wheel], check=True)
    said = subprocess.run(
        [sys.executable, "-P", "-c", "from sidecars.cli import main; main(['version'])"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{package_version()} (compiled)\n"
