"""A rule that allows anyone requires no credential, and ignores a bad one."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until


async def scenario(edge: Edge) -> None:
    forged = bearer(edge.provider.forged_token("admin", "orders:read"))
    good = bearer(edge.provider.token("alice", "orders:read"))
    for headers in ({}, forged, good, {"cookie": "session=nonsense"}):
        answer = await ask(edge.url, "/public/hello", headers={**headers, "x-auth-subject": "admin"})
        assert answer.status == 200
        # No credential is required, so the upstream gets no identity, even from a valid token.
        assert answer.upstream_values("x-auth-subject") == []
    assert (await ask(edge.url, "/orders")).status == 401

    file = edge.places.policy_file
    rule = "- {name: shop, paths: [/shop], allow: anyone, identify: optional}\n"
    file.write_text(f"{file.read_text()}\n{rule}")

    async def known() -> bool:
        return (await ask(edge.url, "/shop")).status == 200

    await until(known, "the new rule decides")
    for headers, named in (({}, []), (forged, []), (good, ["alice"]), ({"cookie": "session=nonsense"}, [])):
        answer = await ask(edge.url, "/shop", headers={**headers, "x-auth-subject": "admin"})
        assert (answer.status, answer.upstream_values("x-auth-subject")) == (200, named)
