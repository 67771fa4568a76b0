"""README.md is correct: its configurations are valid, its commands exist, its links lead somewhere."""

import os
import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.policy.compile.load import parse_policy
from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.rules import Options
from sidecars.cli import main
from sidecars.demo.envoy import find_envoy, scripts_folder
from sidecars.demo.show import POLICY_LINES
from sidecars.settings.load import load_settings
from tests.support.envoy_config import check_configuration

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
OF_ENVOY = ("http_filters", "virtual_hosts", "clusters")


def sidecars(*arguments: str | Path) -> object:
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def blocks_with(key: str) -> list[str]:
    return [block for block in BLOCKS if key in yaml.safe_load(block)]


def test_every_block_is_one_of_those_below() -> None:
    known = [*blocks_with("rules"), *blocks_with("domain"), *blocks_with("accesslog")]
    known += [block for key in OF_ENVOY for block in blocks_with(key)]
    assert sorted(known) == sorted(BLOCKS)


@pytest.mark.parametrize("text", blocks_with("accesslog"))
def test_settings_are_taken(text: str, tmp_path: Path) -> None:
    file = tmp_path / "sidecars.yaml"
    file.write_text(text)
    assert load_settings(file, {}).accesslog is not None


@pytest.mark.parametrize("text", blocks_with("rules"))
def test_the_policy_is_taken_without_a_warning(text: str) -> None:
    policy = parse_policy(text)
    assert policy.rules
    assert not policy.warnings


@pytest.mark.parametrize("text", blocks_with("domain"))
def test_the_limits_are_taken(text: str) -> None:
    assert len(compile_limits([parse(text)], Options()).rules) == 2


@pytest.mark.envoy
async def test_envoy_takes_the_snippets_pasted_together(tmp_path: Path) -> None:
    manager, hosts, clusters = (yaml.safe_load(*blocks_with(key)) for key in OF_ENVOY)
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(bootstrap(manager, hosts, clusters["clusters"][0])))
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), file) == ""


def bootstrap(manager: dict[str, Any], hosts: dict[str, Any], sidecar: dict[str, Any]) -> dict[str, Any]:
    """Return the smallest configuration that contains the snippets."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{extensions}.http.router.v3.Router"}
    manager["http_filters"].append({"name": "envoy.filters.http.router", "typed_config": router})
    connections = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": hosts,
        **manager,
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": filters}],
    }
    text = yaml.safe_dump(sidecar)
    clusters = [yaml.safe_load(text.replace("authz", name)) for name in ("authz", "ratelimit", "accesslog")]
    clusters.append({"name": "upstream", "load_assignment": {"cluster_name": "upstream"}})
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_exist(command: list[str]) -> None:
    program, *arguments = command
    match program:
        case "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ".venv/bin/sidecars":
            names = [*takewhile(re.compile("[a-z]+").fullmatch, arguments)]
            assert sidecars(*names, "--help") == 0
            files = [one for one in arguments if "/" in one and "://" not in one and not one.startswith("/")]
            assert all((ROOT / file).exists() for file in files)
        case ".venv/bin/python":
            assert arguments[0] == "-m"
            assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file()
        case "sed":
            assert command in [shlex.split(line) for line in POLICY_LINES]
        case "envoy-test/run":
            assert os.access(ROOT / program, os.X_OK)
            assert (ROOT / "envoy-test" / arguments[0]).is_file()
        case _:
            assert program == "curl"


def test_the_settings_of_the_example_check_as_written() -> None:
    assert sidecars("config", "check", ROOT / "examples" / "sidecars.yaml") == 0


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
