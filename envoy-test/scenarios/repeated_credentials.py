"""Two credentials are refused, because each server would choose another one (CVE-2021-32777)."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer
from sidecars.demo.until import until


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
        [("cookie", session), ("authorization", good)],
    )
    for headers in cookies:
        assert (await ask(edge.url, "/orders", headers=headers)).status == 400, headers
    assert not edge.echo.received

    # Equal values count as one, and an empty one is ignored (oauth2-proxy#2606).
    for cookie in (f"{session}; {session}", f"session=; {session}"):
        assert (await ask(edge.url, "/orders", headers={"cookie": cookie})).status == 200, cookie
    assert (await ask(edge.url, "/public/hello", headers={"cookie": "session="})).status == 200
    assert (await ask(edge.url, "/orders", headers={"cookie": "session="})).status == 401

    # A browser gets the login, not a dead end, and its cookies are deleted.
    file = edge.places.policy_file
    file.write_text(f"login: {{url: 'https://login.example/'}}\n{file.read_text()}")
    page = {"accept": "text/html", "cookie": f"{session}; session=other"}

    async def leads_to_login() -> bool:
        return (await ask(edge.url, "/orders", headers=page)).status == 302

    await until(leads_to_login, "the login is known")
    answer = await ask(edge.url, "/orders", headers=page)
    assert answer.headers["location"] == "https://login.example/?return_to=/orders"
    ended = answer.headers.getall("set-cookie")
    assert "session=; Path=/; Max-Age=0" in ended
    assert "session=; Path=/orders; Max-Age=0" in ended
