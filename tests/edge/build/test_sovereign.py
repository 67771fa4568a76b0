"""The example for Sovereign serves the resources of a build, and Envoy accepts its bootstrap."""

import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.configfile import read
from edge.build.build import build
from edge.build.sovereign import SOVEREIGN_CLUSTER
from edge.intent.estate import load_estate
from sidecars.demo.configuration import http_manager
from sidecars.demo.envoy import find_envoy, scripts_folder
from tests.edge.build.interpreted import content
from tests.edge.build.test_envoy_accepts import RESPONSE, read_by_protos
from tests.edge.estates import EXAMPLE, TODAY
from tests.support.envoy_config import check_configuration

FOLDER = EXAMPLE / "sovereign"
CONFIGURATION = read(FOLDER / "sovereign.yaml").data


def rendered(context: Any) -> dict[str, list[Any]]:
    """Return the resources of each template, called as Sovereign calls it."""
    found = {}
    for template in CONFIGURATION["templates"]["default"]:
        spec = spec_from_file_location("template", EXAMPLE.parents[1] / template["spec"]["path"])
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        request: dict[str, Any] = {"discovery_request": None, "host_header": "", "resource_names": []}
        found[template["type"]] = list(module.call(edge=context, **request))
    return found


def test_official_protos_know_what_the_templates_serve(tmp_path: Path) -> None:
    built = build(load_estate(EXAMPLE, TODAY))
    resources = rendered(content(built, "sovereign.json"))
    assert resources.keys() == {"listeners", "routes", "clusters"}
    arguments = []
    for kind, served in resources.items():
        (tmp_path / f"{kind}.json").write_bytes(orjson.dumps({"resources": served}))
        arguments += [RESPONSE, f"{kind}.json"]
        expected = content(built, f"xds/{kind}.json")["resources"]
        assert kind == "listeners" or served == expected
    assert read_by_protos(tmp_path, *arguments) == "ok\n"


def test_the_listener_gets_its_routes_from_the_cluster_of_the_bootstrap() -> None:
    [listener] = content(build(load_estate(EXAMPLE, TODAY)), "sovereign.json")["listeners"]
    source = http_manager(listener)["rds"]["config_source"]["api_config_source"]
    assert source["cluster_names"] == [SOVEREIGN_CLUSTER]
    bootstrap = read(FOLDER / "envoy.yaml").data
    assert [one["name"] for one in bootstrap["static_resources"]["clusters"]] == [SOVEREIGN_CLUSTER]


def test_templates_can_choose_services_by_team() -> None:
    services = content(build(load_estate(EXAMPLE, TODAY)), "sovereign.json")["services"]
    assert services[1] == {
        "name": "checkout",
        "owner": "checkout",
        "hosts": ["checkout.example.com"],
        "tier": "gold",
    }


@pytest.mark.envoy
async def test_envoy_accepts_the_bootstrap() -> None:
    said = await check_configuration(find_envoy(os.environ, scripts_folder()), FOLDER / "envoy.yaml")
    assert "no configured limit to the number of allowed active downstream connections" in said or not said
