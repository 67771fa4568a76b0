"""What a client says of itself never reaches the upstream, on public paths neither."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer


async def scenario(edge: Edge) -> None:
    token = edge.provider.token("alice", "orders:read")
    forged = [("x-auth-subject", "admin"), ("X-Auth-Subject", "root"), ("x-auth-scopes", "everything")]

    public = await ask(edge.url, "/public/hello", headers=forged)
    assert public.status == 200
    assert public.upstream_values("x-auth-subject") == []
    assert public.upstream_values("x-auth-scopes") == []

    known = await ask(edge.url, "/orders", headers=[*bearer(token).items(), *forged])
    assert known.status == 200
    assert known.upstream_values("x-auth-subject") == ["alice"]
    assert known.upstream_values("x-auth-scopes") == ["orders:read"]

    # Many upstreams read x_auth_subject as x-auth-subject (CVE-2025-64484): Envoy takes no such header.
    twin = await ask(edge.url, "/public/hello", headers={"x_auth_subject": "admin"})
    assert twin.status == 400
