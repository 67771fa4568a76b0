"""Builds the sdist and the wheel of a commit, byte for byte the same on each machine."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKSUMS: Final = "SHA256SUMS"


class BuildError(Exception):
    """A step of the build failed; the message has its output."""


@dataclass(frozen=True, slots=True)
class Artefacts:
    """The files that `build` wrote."""

    sdist: Path
    wheel: Path


def build(repository: Path, commit: str, folder: Path, work: Path) -> Artefacts:
    """Build the sdist of `commit`, and the wheel from the sdist, into `folder`. Raises BuildError.

    Only what the commit has is built. Times in the archives are those of the commit (SOURCE_DATE_EPOCH), and
    hatchling sets the modes and the order. The WHEEL file names the version of hatchling, so another one
    makes other bytes: constraints.txt pins it. `work` is an empty folder for what is unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seconds = _run(["git", "show", "--no-patch", "--format=%ct", f"{commit}^{{commit}}"], repository)
    epoch = seconds.decode().strip()
    source = _unpack(_run(["git", "archive", "--format=tar", commit], repository), work / "source")
    sdist = _hatch("sdist", source, folder, epoch)
    [unpacked] = _unpack(sdist.read_bytes(), work / "sdist").iterdir()
    return Artefacts(sdist, _hatch("wheel", unpacked, folder, epoch))


def _hatch(kind: str, source: Path, folder: Path, epoch: str) -> Path:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder.absolute())]
    _run(command, source, environment)
    [built] = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def _unpack(archive: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise BuildError(
            f"{' '.join(command)}: {(done.stderr or done.stdout).decode(errors='replace').strip()}"
        )
    return done.stdout


def write_checksums(files: Iterable[Path], folder: Path) -> Path:
    """Write SHA256SUMS of `files` as sha256sum reads it, and return its path."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(files)]
    target = folder / CHECKSUMS
    target.write_text("".join(lines), encoding="utf-8")
    return target
