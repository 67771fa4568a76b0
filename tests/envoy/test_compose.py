"""Properties of the compose file and the Dockerfile that can be tested without Docker."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from common.configfile import read
from sidecars.demo.envoy import DOCKER_IMAGE
from sidecars.settings.load import load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(ROOT / "envoy-test" / "compose.yaml").data["services"]
    return found


def test_every_service_named_in_depends_on_is_there(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert name in services
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[name]


def test_every_file_mounted_or_built_from_is_there(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source == "sockets" or (ROOT / "envoy-test" / source).exists()
        if "build" in service:
            context = (ROOT / "envoy-test" / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()


def test_its_envoy_is_the_one_of_the_runner(services: dict[str, dict[str, Any]]) -> None:
    assert services["envoy"]["image"] == DOCKER_IMAGE


def test_its_environment_is_made_of_settings(services: dict[str, dict[str, Any]]) -> None:
    environment = services["sidecars"]["environment"]
    settings = load_settings(ROOT / "examples" / "sidecars.yaml", environment)
    assert settings.redis is not None
    assert settings.ratelimit is not None
    assert settings.ratelimit.store == "redis"


def test_those_who_share_the_sockets_run_as_one_user(services: dict[str, dict[str, Any]]) -> None:
    """Otherwise the mode 0660 of a socket excludes Envoy."""
    (dockerfile_user,) = re.findall(r"^USER (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    sharing = [service for service in services.values() if "sockets:/tmp" in service.get("volumes", ())]
    assert {service["user"] for service in sharing} == {dockerfile_user}
    assert len(sharing) == 2


def test_the_dockerfile_copies_what_is_there_and_every_package() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sources


def test_the_docker_context_holds_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    rules = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    admitted = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert "*" in rules
    assert all(any(fnmatch(source, rule) for rule in admitted) for source in sources)
    assert admitted == sources
