"""Path and client come only from Envoy: its internal headers are removed from requests, others are ignored.

Headers that only Envoy may set were trusted from outside: CVE-2023-27487, CVE-2024-45806. Authorizers took
the path or the client from headers: CVE-2026-40575, GHSA-vhr5-ggp3-qq85.
"""

from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from tests.support.bare_envoy import BARE, add_bare_listener, refused, send

FORGED = {
    "x-envoy-internal": "true",
    "x-envoy-original-path": "/admin/users",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-upstream-rq-timeout-ms": "1",
}

ANOTHER_PATH = (
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
)
ANOTHER_METHOD = (
    "x-http-method-override",
    "x-method-override",
    "x-forwarded-method",
    "x-envoy-original-method",
)
ANOTHER_CLIENT = (
    "x-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-envoy-external-address",
    "forwarded",
)

change_envoy = add_bare_listener


async def scenario(edge: Edge) -> None:
    answer = await ask(edge.url, "/public/hello", headers=FORGED)
    assert answer.status == 200
    assert answer.upstream_values("x-envoy-internal") == []
    assert answer.upstream_values("x-envoy-original-path") == []
    assert answer.upstream_values("x-envoy-external-address") == ["127.0.0.1"]
    assert answer.upstream_values("x-envoy-expected-rq-timeout-ms") == ["15000"]

    def configure(policy: dict[str, Any]) -> None:
        policy["rules"].append(
            {"name": "office", "paths": ["/office"], "allow": "anyone", "client": ["10.0.0.0/8"]}
        )

    await edge.change_policy(configure)
    # The bare listener treats this machine as internal, and passes such headers on.
    internal = await send(edge, "/public/hello", [("x-envoy-original-path", "/x")])
    assert internal.upstream_values("x-envoy-original-path") == ["/x"]
    for listener in ("edge", BARE):
        for name in ANOTHER_PATH:
            forged = [(name, "/public/hello")]
            refusal = await send(edge, "/orders", forged, listener=listener)
            assert refused(refusal) == "authz credentials_missing", name
        for name in ANOTHER_METHOD:
            refusal = await send(edge, "/public/hello", [(name, "GET")], method="POST", listener=listener)
            assert refused(refusal) == "authz no_rule", name
        for name in ANOTHER_CLIENT:
            value = "for=10.0.0.1" if name == "forwarded" else "10.0.0.1"
            assert refused(await send(edge, "/office", [(name, value)], listener=listener)) == (
                "authz conditions_unmet"
            ), name
