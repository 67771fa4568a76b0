"""The filters and the policy in docs/migrating-filters.md decide the same requests in the same way."""

import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sidecars.demo.ask import ask
from sidecars.demo.configuration import http_manager
from sidecars.demo.edge import serve_edge
from sidecars.demo.rows import bearer
from tests.support.manifests import ROOT

PAGE = (ROOT / "docs" / "migrating-filters.md").read_text(encoding="utf-8")
JWT, RBAC, POLICY = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILTERS = "filters"
PACKAGE = "type.googleapis.com/envoy.extensions.filters.http"

REQUESTS = [
    ("GET", "/public/a", None, 200),
    ("GET", "/public/a", "alice", 200),
    ("GET", "/public/a", "broken", 200),
    ("GET", "/orders", None, 401),
    ("GET", "/orders", "broken", 401),
    ("GET", "/orders", "alice", 200),
    ("GET", "/orders", "bob", 403),
    ("POST", "/orders", "alice", 403),
    ("GET", "/other", "alice", 403),
    ("GET", "/public/../orders", None, 401),
    ("GET", "/public/../orders", "bob", 403),
]
"""Method, path, subject of the token, and the status of both."""

UNLIKE = ("GET", "/other", {"authz": 403, FILTERS: 401})
"""Method, path, and the two statuses without a token: the page has a row for it."""


def add_listener_with_filters(configuration: dict[str, Any], folder: Path) -> None:
    """Add a listener whose Envoy decides by itself, with the key set of the demo."""
    [issuer] = yaml.safe_load((folder / "policy.yaml").read_text())["credentials"]["issuers"]
    url = issuer["jwks"]["url"]
    resources = configuration["static_resources"]
    listener = deepcopy(resources["listeners"][0])
    listener["name"] = FILTERS
    manager = http_manager(listener)
    jwt = {"@type": f"{PACKAGE}.jwt_authn.v3.JwtAuthentication"} | yaml.safe_load(
        JWT.replace("JWKS_URL", url)
    )
    rbac = {"@type": f"{PACKAGE}.rbac.v3.RBAC"} | yaml.safe_load(RBAC)
    router = manager["http_filters"][-1]
    manager["http_filters"] = [
        {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt},
        {"name": "envoy.filters.http.rbac", "typed_config": rbac},
        router,
    ]
    resources["listeners"].append(listener)
    where = {"socket_address": {"address": urlsplit(url).hostname, "port_value": urlsplit(url).port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": where}}]}]
    resources["clusters"].append(
        {"name": "idp", "load_assignment": {"cluster_name": "idp", "endpoints": endpoints}}
    )


@pytest.mark.envoy
async def test_both_decide_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("m")
    async with serve_edge(folder, os.environ, change_envoy=add_listener_with_filters) as edge:

        def ours(policy: dict[str, Any]) -> None:
            wanted = yaml.safe_load(POLICY)
            [issuer] = policy["credentials"]["issuers"]
            wanted["credentials"]["issuers"][0]["jwks"] = issuer["jwks"]
            policy.clear()
            policy.update(wanted)

        await edge.change_policy(ours)
        urls = {"authz": edge.url, FILTERS: f"http://127.0.0.1:{edge.envoy.ports[FILTERS]}"}
        for method, path, subject, status in REQUESTS:
            headers = {}
            if subject is not None:
                token = "a.b.c" if subject == "broken" else edge.provider.token(subject, "orders:read")
                headers = bearer(token)
            for name, url in urls.items():
                answer = await ask(url, path, method=method, headers=headers)
                assert answer.status == status, f"{name}: {method} {path} by {subject}"
        method, path, statuses = UNLIKE
        for name, url in urls.items():
            assert (await ask(url, path, method=method)).status == statuses[name]
