"""The sidecars of an earlier commit, which run next to the present ones."""

import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecars.demo.admin import SidecarsAdmin
from sidecars.demo.process import ChildProcess, spawn
from tests.support.manifests import ROOT

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
DRAIN_SECONDS = 2
"""Several intervals of a health check, because it is late on a busy machine."""


def tree_of(commit: str, folder: Path) -> Path:
    """Return the files of an earlier commit; skip the test if the clone does not have it."""
    packed = folder / f"{commit}.tar"
    done = subprocess.run(
        ["git", "archive", "-o", packed, commit], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the clone lacks the commit {commit}: git fetch --unshallow")
    tree = folder / commit
    with tarfile.open(packed) as archive:
        archive.extractall(tree, filter="data")
    return tree


class Version:
    """The sidecars of one tree, with the dependencies of this environment; all files are in `folder`."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._folder = folder
        own = {key: value for key, value in os.environ.items() if not key.startswith("SIDECARS_")}
        self._environment = {**own, "PYTHONPATH": str(tree)}
        self._command = (sys.executable, "-P", "-m", "sidecars")
        where = [sys.executable, "-P", "-c", "import sidecars; print(sidecars.__file__)"]
        told = subprocess.run(where, env=self._environment, capture_output=True, text=True, check=True)
        assert Path(told.stdout.strip()).is_relative_to(tree)

    def settings(self, name: str, **sections: Any) -> Path:
        """Write the settings file NAME.yaml and return it. The admin server is at NAME.admin."""
        file = self._folder / f"{name}.yaml"
        own = {
            "admin": {"listen": f"unix:{self._folder}/{name}.admin"},
            "drain": {"drain_delay_seconds": DRAIN_SECONDS},
        }
        file.write_text(yaml.safe_dump(own | sections))
        return file

    @asynccontextmanager
    async def running(self, name: str, service: str, **sections: Any) -> AsyncIterator[ChildProcess]:
        """Run one service with these sections of the settings during the block."""
        command = (*self._command, "run", service, "--config", str(self.settings(name, **sections)))
        async with spawn(
            name,
            command,
            self._folder / f"{name}.log",
            stop_seconds=STOP_SECONDS,
            environment=self._environment,
        ) as process:
            await process.until_ready(SidecarsAdmin(self._folder / f"{name}.admin").ready, READY_SECONDS)
            yield process

    def run(self, *arguments: str) -> str:
        """Return what `sidecars ARGUMENTS` prints."""
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def redis_section(url: str) -> dict[str, Any]:
    """Return the section `redis`, patient: a busy machine may pause for longer than the default of 10 ms."""
    return {"url": url, "operation_timeout_ms": 9_000, "connect_timeout_ms": 9_000}
