from pathlib import Path

import pytest

from sidecars.demo.envoy import DOCKER_IMAGE, EnvoyError, EnvoyProgram, find_envoy
from tests.support.programs import program


@pytest.fixture
def everywhere(tmp_path: Path) -> dict[str, Path]:
    """Put an Envoy in every place that the search covers."""
    return {
        "chosen": program(tmp_path / "chosen", "my-envoy"),
        "wheel": program(tmp_path / "scripts", "envoy"),
        "path": program(tmp_path / "path", "envoy"),
        "docker": program(tmp_path / "path", "docker"),
    }


def environment(everywhere: dict[str, Path], **others: str) -> dict[str, str]:
    return {"PATH": str(everywhere["path"].parent), **others}


def test_the_envoy_bin_variable_comes_first(everywhere: dict[str, Path]) -> None:
    found = find_envoy(
        environment(everywhere, ENVOY_BIN=str(everywhere["chosen"])), everywhere["wheel"].parent
    )
    assert found == EnvoyProgram("$ENVOY_BIN", str(everywhere["chosen"]))


def test_the_wheel_comes_before_the_path(everywhere: dict[str, Path]) -> None:
    found = find_envoy(environment(everywhere), everywhere["wheel"].parent)
    assert found.executable == str(everywhere["wheel"])


def test_the_path_comes_before_docker(everywhere: dict[str, Path], tmp_path: Path) -> None:
    found = find_envoy(environment(everywhere), tmp_path / "nothing here")
    assert found.executable == str(everywhere["path"])


def test_docker_is_taken_where_there_is_no_envoy(everywhere: dict[str, Path], tmp_path: Path) -> None:
    everywhere["path"].unlink()
    found = find_envoy(environment(everywhere), tmp_path / "nothing here")
    assert (found.executable, found.docker_image) == (str(everywhere["docker"]), DOCKER_IMAGE)


def test_docker_reaches_the_sockets_under_their_own_paths() -> None:
    docker = EnvoyProgram("Docker", "/usr/bin/docker", DOCKER_IMAGE)
    command = docker.command(("-c", "/run/a/envoy.json"), (Path("/run/a"), Path("/run/b")))
    assert command[:2] == ("/usr/bin/docker", "run")
    assert {"--volume=/run/a:/run/a", "--volume=/run/b:/run/b", "--network=host"} <= set(command)
    assert command[-4:] == (DOCKER_IMAGE, "envoy", "-c", "/run/a/envoy.json")


def test_an_envoy_bin_that_cannot_be_run_is_an_error_and_nothing_else_is_tried(
    everywhere: dict[str, Path],
) -> None:
    with pytest.raises(EnvoyError, match="ENVOY_BIN is '/nowhere/envoy'"):
        find_envoy(environment(everywhere, ENVOY_BIN="/nowhere/envoy"), everywhere["wheel"].parent)


def test_without_any_envoy_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(EnvoyError, match=r"extra `demo`.*pip install.*ENVOY_BIN.*Docker"):
        find_envoy({"PATH": str(tmp_path)}, tmp_path)
