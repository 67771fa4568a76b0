"""A limit by `:authority` or `:path` counts every spelling, with Envoy's hardening and without."""

from typing import Any

import pytest

from sidecars.demo.edge import Edge
from tests.support.attacks.edges import LISTENERS, PLAIN, serve_both
from tests.support.bare_envoy import send, send_http2

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(180)]

LIMITS = """
  - key: path
    value: /login
    normalise: path
    rate_limit: {unit: day, requests_per_unit: 1, algorithm: fixed_window}
  - key: authority
    normalise: host
    rate_limit: {unit: day, requests_per_unit: 1, algorithm: fixed_window}
"""

PATHS = (
    *(
        "/login?x",
        "/login#x",
        "/Login",
        "/LOGIN",
        "/login/",
        "//login",
        "/./login",
        "/x/../login",
        "/login;v=1",
    ),
    *(
        "/%6cogin",
        "/%256cogin",
        "/x/%2e%2e/login",
        "/x%2f..%2flogin",
        "/x\\..\\login",
        "/x/..;/login",
        "/login%20",
    ),
    *(
        "/login%3fx",
        "/login%23",
        "/login%00",
        "/login.",
        "/;x/login",
        "/login%2f",
        "http://edge.example/login",
    ),
)

READ_IN_SEVERAL_WAYS = ("/x%3f/../login", "/login//..", "//x.example/login", "/login%3f/../x")
"""Spellings that Envoy does not normalise to one path."""

HOSTS = (
    *(
        "EDGE.example",
        "Edge.Example",
        "edge.example.",
        "edge.example:80",
        "edge.example:8443",
        "edge.example.:443",
    ),
    *("u@edge.example", "u:p@edge.example:1", "edge.example:", "edge%2eexample"),
)


def count_by_host_and_path(manager: dict[str, Any]) -> None:
    """Both limits count every request, and nothing else refuses one."""
    manager["http_filters"] = [one for one in manager["http_filters"] if "ext_authz" not in one["name"]]

    def header(name: str, key: str) -> dict[str, Any]:
        return {"actions": [{"request_headers": {"header_name": name, "descriptor_key": key}}]}

    [host] = manager["route_config"]["virtual_hosts"]
    host["rate_limits"] = []
    host["routes"] = [
        {
            "match": {"prefix": "/host"},
            "route": {"cluster": "upstream", "rate_limits": [header(":authority", "authority")]},
        },
        {
            "match": {"prefix": "/"},
            "route": {"cluster": "upstream", "rate_limits": [header(":path", "path")]},
        },
    ]


async def _let_pass(edge: Edge, listener: str, path: str, host: str = "edge.example") -> bool:
    try:
        answer = await send(edge, path, listener=listener, host=host)
    except EOFError:  # Envoy closes the connection without a response
        return False
    return answer.status == 200  # all others are refused, with 429 or with 400 by Envoy


@pytest.mark.parametrize("listener", LISTENERS)
async def test_no_spelling_has_a_limit_of_its_own(
    listener: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with serve_both(tmp_path_factory.mktemp("e"), count_by_host_and_path, LIMITS) as edge:
        assert await _let_pass(edge, listener, "/login")
        passed = [path for path in PATHS if await _let_pass(edge, listener, path)]
        assert not passed
        if listener == PLAIN:
            passed = [path for path in READ_IN_SEVERAL_WAYS if await _let_pass(edge, listener, path)]
            assert not passed
        assert (await send_http2(edge, b"/LOGIN?x", listener=listener)).status == 429
        assert await _let_pass(edge, listener, "/host")
        passed = [host for host in HOSTS if await _let_pass(edge, listener, "/host", host)]
        assert not passed
        # Another host has its own bucket.
        assert await _let_pass(edge, listener, "/host", "other.example")
