"""The authorization server decides about an opaque token (RFC 7662), and its response is cached."""

from base64 import b64encode
from collections import Counter
from typing import Any

from aiohttp import web

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.idp import AUDIENCE
from sidecars.demo.rows import bearer
from sidecars.demo.upstream import serve_application

SECRET = "secret-of-the-client"  # noqa: S105  # made for this test


async def scenario(edge: Edge) -> None:
    server = AuthorizationServer()
    application = web.Application()
    application.router.add_post("/introspect", server.answer)
    async with serve_application(application, "127.0.0.1", 0) as port:
        secret_file = edge.places.folder / "introspection.secret"
        secret_file.write_text(SECRET)

        def configure(policy: dict[str, Any]) -> None:
            policy["credentials"]["introspection"] = {
                "url": f"http://127.0.0.1:{port}/introspect",
                "client_id": "edge",
                "client_secret_file": str(secret_file),
                "audiences": [AUDIENCE],
                "allow_http": True,
                "allow_addresses": ["127.0.0.0/8"],
            }

        await edge.change_policy(configure)
        for _ in range(3):
            answer = await ask(edge.url, "/orders", headers=bearer("opaque-good"))
            assert answer.status == 200
            assert answer.upstream_values("x-auth-subject") == ["dora"]
            assert (await ask(edge.url, "/orders", headers=bearer("opaque-bad"))).status == 401
        assert server.asked == {"opaque-good": 1, "opaque-bad": 1}
        # Valid, but for another service (CVE-2022-29226).
        assert (await ask(edge.url, "/orders", headers=bearer("opaque-elsewhere"))).status == 401
        # A JWT may use the same header, and is not sent to introspection.
        jwt = bearer(edge.provider.token("alice", "orders:read"))
        assert (await ask(edge.url, "/orders", headers=jwt)).status == 200
        assert len(server.asked) == 3

    # The server is down: cached tokens are accepted, the others cannot be verified.
    assert (await ask(edge.url, "/orders", headers=bearer("opaque-good"))).status == 200
    assert (await ask(edge.url, "/orders", headers=bearer("opaque-new"))).status == 503


class AuthorizationServer:
    """An authorization server with two active tokens, which answers only its own client."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.Response:
        """Return the introspection response for the token in the form."""
        basic = b64encode(f"edge:{SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {basic}":
            return web.Response(status=401)
        token = str((await request.post())["token"])
        self.asked[token] += 1
        active = {"active": True, "sub": "dora", "scope": "orders:read", "token_type": "Bearer"}
        known = {
            "opaque-good": active | {"aud": AUDIENCE},
            "opaque-elsewhere": active | {"aud": "https://other.example"},
        }
        return web.json_response(known.get(token, {"active": False}))
