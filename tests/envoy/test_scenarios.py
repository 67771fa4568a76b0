"""Runs each scenario of envoy-test/scenarios on its own edge: a real Envoy with real sidecars.

A scenario with `REDIS = True` gets two authz sidecars, which share a Redis. The function `change_envoy` of a
scenario changes the configuration of Envoy.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sidecars.demo.edge import serve_edge
from tests.support.redis_server import RedisServer

SCENARIOS = sorted((Path(__file__).parents[2] / "envoy-test" / "scenarios").glob("*.py"))


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scenario_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=SCENARIOS, ids=lambda file: file.stem)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


@pytest.fixture
def redis_url(module: ModuleType) -> Iterator[str | None]:
    if not getattr(module, "REDIS", False):
        yield None
        return
    with RedisServer() as server:
        yield server.url


@pytest.mark.envoy
async def test_scenario(
    module: ModuleType, redis_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    change_envoy = getattr(module, "change_envoy", lambda _configuration, _folder: None)
    # A short name: a unix socket path has at most 107 bytes.
    folder = tmp_path_factory.mktemp("e")
    async with serve_edge(folder, os.environ, redis_url=redis_url, change_envoy=change_envoy) as edge:
        await module.scenario(edge)
