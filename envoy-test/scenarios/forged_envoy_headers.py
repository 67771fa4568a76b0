"""Headers that only Envoy may set are taken away from every client (CVE-2023-27487, CVE-2024-45806)."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge

FORGED = {
    "x-envoy-internal": "true",
    "x-envoy-original-path": "/admin/users",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-upstream-rq-timeout-ms": "1",
}


async def scenario(edge: Edge) -> None:
    answer = await ask(edge.url, "/public/hello", headers=FORGED)
    assert answer.status == 200
    assert answer.upstream_values("x-envoy-internal") == []
    assert answer.upstream_values("x-envoy-original-path") == []
    assert answer.upstream_values("x-envoy-external-address") == ["127.0.0.1"]
    assert answer.upstream_values("x-envoy-expected-rq-timeout-ms") == ["15000"]
