"""Writes the Python stubs of every .proto beside it; `--check` says which ones have drifted."""

import argparse
import importlib.resources
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
STUB_SUFFIXES = ("_pb2.py", "_pb2.pyi")


class GenerateError(Exception):
    """protoc refused a .proto, or is not installed."""


def generate(target: Path) -> tuple[Path, ...]:
    """The stubs, written below `target` as `protos/NAME_pb2.py` and `.pyi`. Raises GenerateError."""
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise GenerateError(
            "grpcio-tools is missing; it comes with the dev extra of edge-sidecars"
        ) from error
    # google/protobuf lies beside protoc, google/rpc in googleapis-common-protos.
    includes = (
        ROOT,
        importlib.resources.files("grpc_tools") / "_proto",
        importlib.resources.files("google.rpc") / ".." / "..",
    )
    sources = sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.glob("*.proto"))
    exit_code = protoc.main(
        [
            "protoc",
            *(f"--proto_path={include}" for include in includes),
            f"--python_out={target}",
            f"--pyi_out={target}",
            *sources,
        ]
    )
    if exit_code:
        raise GenerateError(f"protoc ended with {exit_code}; what it found wrong is printed above")
    stubs = (target / source.removesuffix(".proto") for source in sources)
    return tuple(stub.with_name(stub.name + suffix) for stub in stubs for suffix in STUB_SUFFIXES)


def drifted(folder: Path) -> tuple[str, ...]:
    """The names of stubs in `folder` that are missing, stale or without a .proto."""
    with tempfile.TemporaryDirectory() as fresh_root:
        fresh = {path.name: path.read_bytes() for path in generate(Path(fresh_root))}
    present = {path.name: path.read_bytes() for suffix in STUB_SUFFIXES for path in folder.glob(f"*{suffix}")}
    return tuple(sorted(name for name in fresh | present if fresh.get(name) != present.get(name)))


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """The exit code: 0, or 1 when `--check` finds drift in the stubs of `folder` or protoc fails."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a stub has drifted")
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
        sys.stderr.write(f"stubs differ from their .proto: {', '.join(stale)}\nrun: make protos\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
