"""A move from envoyproxy/ratelimit: its environment and limits, a real Envoy and a real Redis.

The answers were recorded from a running envoyproxy/ratelimit behind the same Envoy.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecars.demo.envoy import Envoy, find_envoy, scripts_folder, serve_envoy
from tests.support.redis_server import RedisServer
from tests.support.running import Running

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(120)]

COMPAT = ("-m", "sidecars", "run", "ratelimit", "--compat")
LIMITS = """
domain: rl
descriptors:
  - key: foo
    rate_limit: {unit: day, requests_per_unit: 2, name: by_foo}
    descriptors:
      - {key: bar, rate_limit: {unit: day, requests_per_unit: 3}}
      - {key: bar, value: banned, rate_limit: {unit: day, requests_per_unit: 0}}
  - key: premium
    rate_limit: {unlimited: true, replaces: [{name: by_foo}]}
  - key: gold
    quota_mode: true
    metadata: {tier: gold}
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: silver
    quota_mode: true
    metadata: {tier: silver}
    rate_limit: {unit: day, requests_per_unit: 2}
"""
TIER = "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:metadata:tier)%"


def _header(name: str) -> dict[str, Any]:
    return {"request_headers": {"header_name": name, "descriptor_key": name}}


def _pipe_cluster(name: str, path: Path, **more: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def _listener(
    name: str, address: dict[str, Any], route: dict[str, Any], *filters: dict[str, Any]
) -> dict[str, Any]:
    api = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{api}.http.router.v3.Router"}}
    manager = {
        "@type": f"{api}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": address, "filter_chains": [chain]}


def configuration(folder: Path) -> dict[str, Any]:
    """One route with a limit for each header, and an upstream in the same Envoy."""
    api = "type.googleapis.com/envoy.extensions"
    limits = [
        *({"actions": [_header(name)]} for name in ("foo", "premium", "gold", "silver")),
        {"actions": [_header("foo"), _header("bar")]},
    ]
    ratelimit = {
        "name": "ratelimit",
        "typed_config": {
            "@type": f"{api}.filters.http.ratelimit.v3.RateLimit",
            "domain": "rl",
            "timeout": "5s",
            "failure_mode_deny": True,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limit_service": {
                "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
                "transport_api_version": "V3",
            },
        },
    }
    edge = {
        "match": {"prefix": "/"},
        "route": {"cluster": "upstream", "rate_limits": limits},
        "response_headers_to_add": [{"header": {"key": "x-tier", "value": TIER}}],
    }
    upstream = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    http2 = {
        f"{api}.upstreams.http.v3.HttpProtocolOptions".removeprefix("type.googleapis.com/"): {
            "@type": f"{api}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    free = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    pipe = {"pipe": {"path": str(folder / "upstream.sock")}}
    return {
        "static_resources": {
            "listeners": [_listener("edge", free, edge, ratelimit), _listener("upstream", pipe, upstream)],
            "clusters": [
                _pipe_cluster("upstream", folder / "upstream.sock"),
                _pipe_cluster("ratelimit", folder / "s", typed_extension_protocol_options=http2),
            ],
        }
    }


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")  # short: a unix socket path has at most 107 bytes
    (folder / "rl" / "config").mkdir(parents=True)
    (folder / "rl" / "config" / "limits.yaml").write_text(LIMITS)
    return folder


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    with RedisServer() as redis:
        environ = {
            "RUNTIME_ROOT": str(folder),
            "RUNTIME_SUBDIRECTORY": "rl",
            "REDIS_URL": str(redis.socket),
            "GRPC_UDS": f"{folder}/s",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DEBUG_HOST": "127.0.0.1",
            "DEBUG_PORT": "0",
            "USE_STATSD": "false",
            "RESPONSE_DYNAMIC_METADATA": "true",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
            "REDIS_TIMEOUT": "2s",
            "SIDECARS_ADMIN__PORT_FILE": f"{folder}/admin.port",
        }
        with Running(folder, {}, program=COMPAT, environ=environ, arguments=()) as process:
            yield process.wait_until_ready()


@pytest.fixture
async def envoy(folder: Path, running: Running) -> AsyncIterator[Envoy]:
    program = find_envoy(os.environ, scripts_folder())
    async with serve_envoy(program, configuration(folder), folder) as envoy:
        yield envoy


async def test_clients_get_the_answers_that_they_got_before(envoy: Envoy) -> None:
    async def asked(**headers: str) -> tuple[int, dict[str, str]]:
        url = f"http://127.0.0.1:{envoy.ports['edge']}/"
        async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
            names = ("x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit-limit", "ratelimit-remaining")
            found = {name: response.headers.get(name, "") for name in names}
            return response.status, {**found, "x-tier": response.headers.get("x-tier", "")}

    def shown(limit: str, remaining: str, draft: str, tier: str = "") -> dict[str, str]:
        return {
            "x-ratelimit-limit": draft,
            "x-ratelimit-remaining": remaining,
            "ratelimit-limit": limit,
            "ratelimit-remaining": remaining,
            "x-tier": tier,
        }

    by_foo = '2, 2;w=86400;name="by_foo"'
    answers = [await asked(foo="a") for _ in range(3)]
    assert answers == [
        (200, shown("2", "1", by_foo)),
        (200, shown("2", "0", by_foo)),
        (429, shown("2", "0", by_foo)),
    ]
    # `foo` is over already, and is charged with it; unlimited replaces it.
    assert (await asked(foo="a", premium="1"))[0] == 200
    assert (await asked(foo="b", bar="banned"))[0] == 429
    assert await asked(foo="c", bar="x") == (200, shown("2", "1", f"{by_foo}, 3;w=86400"))
    # Quotas: the first that is left gives its metadata to the upstream.
    tiers = [await asked(gold="1", silver="1") for _ in range(3)]
    assert [(status, headers["x-tier"]) for status, headers in tiers] == [
        (200, "gold"),
        (200, "silver"),
        (429, ""),
    ]
