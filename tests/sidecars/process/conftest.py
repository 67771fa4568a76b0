"""A process with the probe sidecar, ready, and a channel to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import Running, connect, probe_section


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("answer: one\n")
    return path


@pytest.fixture
def running(tmp_path: Path, policy: Path) -> Iterator[Running]:
    with Running(tmp_path, {"authz": probe_section(tmp_path)}) as process:
        yield process.wait_until_ready()


@pytest.fixture
def channel(running: Running, tmp_path: Path) -> Iterator[Any]:
    with connect(f"unix:{tmp_path}/s") as channel:
        yield channel
