"""Runs each scenario of envoy-test/scenarios on an edge of its own: a real Envoy before real sidecars."""

import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecars.demo.edge import Edge, serve_edge

SCENARIOS = sorted((Path(__file__).parents[2] / "envoy-test" / "scenarios").glob("*.py"))


@pytest.fixture
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    # A short name: a unix socket path has at most 107 bytes.
    async with serve_edge(tmp_path_factory.mktemp("e"), os.environ) as edge:
        yield edge


@pytest.mark.envoy
@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
async def test_scenario(file: Path, edge: Edge) -> None:
    spec = importlib.util.spec_from_file_location(f"scenario_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    await module.scenario(edge)
