"""Writes what is generated from the .proto files: Python stubs and a descriptor set.

`--check` writes nothing and says which of them have drifted.
"""

import argparse
import importlib.resources
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from protos.descriptors import PROTOSET

FOLDER: Final = Path(__file__).resolve().parent
ROOT: Final = FOLDER.parent
STUB_SUFFIXES: Final = ("_pb2.py", "_pb2.pyi")


class GenerateError(Exception):
    """protoc refused a .proto, or is not installed."""


def generate(target: Path) -> tuple[Path, ...]:
    """The stubs and the descriptor set, written below `target` in `protos`. Raises GenerateError."""
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise GenerateError(
            "grpcio-tools is missing; it comes with the dev extra of edge-sidecars"
        ) from error
    # google/protobuf is next to protoc, google/rpc in googleapis-common-protos.
    includes = (
        ROOT,
        importlib.resources.files("grpc_tools") / "_proto",
        importlib.resources.files("google.rpc") / ".." / "..",
    )
    sources = sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.glob("*.proto"))
    folder = target / FOLDER.name
    folder.mkdir(exist_ok=True)
    exit_code = protoc.main(
        [
            "protoc",
            *(f"--proto_path={include}" for include in includes),
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--descriptor_set_out={folder / PROTOSET}",
            "--include_imports",
            "--include_source_info",  # the comments, which `grpcurl describe` prints
            *sources,
        ]
    )
    if exit_code:
        raise GenerateError(f"protoc ended with {exit_code}; what it found wrong is printed above")
    names = [Path(source).stem + suffix for source in sources for suffix in STUB_SUFFIXES]
    return tuple(folder / name for name in (*names, PROTOSET))


def drifted(folder: Path) -> tuple[str, ...]:
    """The names of generated files in `folder` that are missing, stale or without a .proto."""
    with tempfile.TemporaryDirectory() as fresh_root:
        fresh = {path.name: path.read_bytes() for path in generate(Path(fresh_root))}
    patterns = (*(f"*{suffix}" for suffix in STUB_SUFFIXES), "*.protoset")
    present = {path.name: path.read_bytes() for pattern in patterns for path in folder.glob(pattern)}
    return tuple(sorted(name for name in fresh | present if fresh.get(name) != present.get(name)))


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """The exit code: 0, or 1 when `--check` finds drift in the stubs of `folder` or protoc fails."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file has drifted")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            generate(ROOT)
            return 0
        stale = drifted(folder)
    except GenerateError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if stale:
        sys.stderr.write(f"generated files differ from their .proto: {', '.join(stale)}\nrun: make protos\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
