import re
import shutil
import tomllib
from pathlib import Path

import pytest

from protos import authz_pb2, generate
from protos.descriptors import PROTOSET, read_descriptors
from tests.support.protos.contract import contract

ROOT = Path(__file__).parents[2]


def test_the_committed_stubs_are_those_of_the_protos() -> None:
    assert generate.drifted(generate.FOLDER) == ()


def test_check_names_the_stub_that_drifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for generated in (*generate.FOLDER.glob("*_pb2.py*"), *generate.FOLDER.glob("*.protoset")):
        shutil.copy(generated, tmp_path)
    (tmp_path / "core_pb2.py").write_text("# edited by hand\n")
    (tmp_path / "left_over_pb2.py").write_text("# its .proto is gone\n")
    (tmp_path / "types_pb2.pyi").unlink()

    assert generate.main(["--check"], tmp_path) == 1
    assert ": core_pb2.py, left_over_pb2.py, types_pb2.pyi\n" in capsys.readouterr().err


def test_check_names_a_descriptor_set_that_drifted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stub in generate.FOLDER.glob("*_pb2.py*"):
        shutil.copy(stub, tmp_path)
    assert generate.main(["--check"], tmp_path) == 1
    assert f": {PROTOSET}\n" in capsys.readouterr().err


def test_the_descriptor_set_holds_every_file_after_those_it_imports() -> None:
    seen: set[str] = set()
    for file in read_descriptors().file:
        assert set(file.dependency) <= seen
        seen.add(file.name)
    assert {f"protos/{path.name}" for path in generate.FOLDER.glob("*.proto")} <= seen


def test_both_versions_of_reflection_have_the_same_messages() -> None:
    """One handler serves both, so they may differ only in the package name."""
    files = {file.package: file for file in read_descriptors().file}
    older = files["grpc.reflection.v1alpha"]
    promised = contract([older])
    assert {
        name.replace("v1alpha", "v1"): text.replace("v1alpha", "v1") for name, text in promised.items()
    } == (contract([files["grpc.reflection.v1"]]))


def test_the_protobuf_we_require_runs_our_stubs() -> None:
    """The protobuf package rejects stubs from a later release than its own."""
    stub = Path(authz_pb2.__file__).read_text()
    stub_version = re.search(r"^# Protobuf Python Version: (.+)$", stub, re.MULTILINE)
    assert stub_version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"protobuf>={stub_version[1]}" in project["dependencies"]
