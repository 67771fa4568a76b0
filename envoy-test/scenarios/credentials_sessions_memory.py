"""A session is accepted in a cookie or a header, and refused as soon as it is revoked."""

from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["sessions"] = {
            "store": "memory",
            "locations": [{"cookie": "session"}, {"header": "x-session"}],
        }

    await edge.change_policy(configure)
    token = await edge.admin.create_session("carol", ("orders:read",))
    in_cookie, in_header = {"cookie": f"theme=dark; session={token}"}, {"x-session": token}
    for headers in (in_cookie, in_header):
        answer = await ask(edge.url, "/orders", headers=headers)
        assert answer.status == 200
        assert answer.upstream_values("x-auth-subject") == ["carol"]
        assert answer.upstream_values("x-auth-credential") == ["session"]
    # Both at once are two credentials, even if equal.
    assert (await ask(edge.url, "/orders", headers={**in_cookie, **in_header})).status == 400

    # A token invented by a client creates no session (session fixation).
    made_up = {"cookie": f"session={token[::-1]}"}
    for _ in range(2):
        assert (await ask(edge.url, "/orders", headers=made_up)).status == 401

    await edge.admin.revoke_session(token)
    for headers in (in_cookie, in_header):
        assert (await ask(edge.url, "/orders", headers=headers)).status == 401
