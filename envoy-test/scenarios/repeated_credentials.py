"""Two credentials where one is expected are refused: each reader would choose another (CVE-2021-32777)."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer


async def scenario(edge: Edge) -> None:
    good = bearer(edge.provider.token("alice", "orders:read"))["authorization"]
    bad = bearer(edge.provider.forged_token("mallory", "orders:read"))["authorization"]
    for first, second in ((good, bad), (bad, good), (good, good)):
        answer = await ask(edge.url, "/orders", headers=[("authorization", first), ("authorization", second)])
        assert answer.status in {400, 401}, f"answered {answer.status}"
        assert not edge.echo.received

    joined = await ask(edge.url, "/orders", headers={"authorization": f"{good}, {bad}"})
    assert joined.status in {400, 401}
    assert not edge.echo.received

    session = f"session={await edge.admin.create_session('carol', ['orders:read'])}"
    assert (await ask(edge.url, "/orders", headers={"cookie": session})).status == 200
    edge.echo.received.clear()
    cookies = (
        [("cookie", f"{session}; session=other")],
        [("cookie", f"session=other; {session}")],
        [("cookie", session), ("cookie", "session=other")],
        [("cookie", session), ("cookie", session)],
        [("cookie", session), ("authorization", good)],
    )
    for headers in cookies:
        assert (await ask(edge.url, "/orders", headers=headers)).status == 400, headers
    assert not edge.echo.received
