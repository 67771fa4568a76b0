"""Tools written in Go that tests run: installed, or built once into .cache/bin."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD_SECONDS = 300
FOLDER = Path(__file__).parents[2] / ".cache" / "bin"


def go_tool(name: str, module: str) -> str:
    """Return the path of the tool; skip the test if it is not installed and cannot be built."""
    found = shutil.which(name) or shutil.which(name, path=str(FOLDER))
    if found is not None:
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"{name} is not on the PATH, and neither is go to build it with")
    build = subprocess.run(
        [go, "install", module],
        env={**os.environ, "GOBIN": str(FOLDER)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if build.returncode:
        pytest.skip(f"{name} could not be built: {build.stdout}")
    return str(FOLDER / name)
