"""A rule can depend on the configuration of the route that Envoy chose, not on client data."""

from pathlib import Path
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import Edge
from sidecars.demo.until import until

RULES = """
- {name: hello, paths: ["/hello/**"], allow: anyone}
- name: inner
  paths: ["/hello/**"]
  deny: anyone
  context_extensions: {audience: internal}
  answer: {status: 404}
"""
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"


def change_envoy(configuration: dict[str, Any], _folder: Path) -> None:
    manager = http_manager(configuration["static_resources"]["listeners"][0])
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    routes.insert(
        0,
        {
            "match": {"prefix": "/hello/inner"},
            "route": {"cluster": "upstream"},
            "typed_per_filter_config": {
                "envoy.filters.http.ext_authz": {
                    "@type": PER_ROUTE,
                    "check_settings": {"context_extensions": {"audience": "internal"}},
                }
            },
        },
    )


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    file.write_text(file.read_text() + RULES)

    async def known() -> bool:
        return (await ask(edge.url, "/hello/a")).status == 200

    await until(known, "the new rules decide")
    assert (await ask(edge.url, "/hello/inner/a")).status == 404
    assert (await ask(edge.url, "/hello/a", headers={"audience": "internal"})).status == 200
    assert (await ask(edge.url, "/hello/inner/a", headers={"audience": "public"})).status == 404
