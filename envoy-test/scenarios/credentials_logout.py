"""The identity provider ends a session (OpenID Connect Back-Channel Logout 1.0)."""

import time
from typing import Any

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer

EVENT = "http://schemas.openid.net/event/backchannel-logout"
CLIENT = "edge-client"


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["issuers"][0]["logout"] = {"audiences": [CLIENT]}
        policy["credentials"]["revocations"] = {"store": "memory"}

    await edge.change_policy(configure)
    idp = edge.provider
    ended, other = (bearer(idp.token("alice", "orders:read", sid=sid)) for sid in ("s1", "s2"))
    for token in (ended, other):
        assert (await ask(edge.url, "/orders", headers=token)).status == 200

    claims: dict[str, Any] = {"aud": CLIENT, "sid": "s1", "events": {EVENT: {}}, "exp": int(time.time()) + 60}
    # An access token and a logout token for another client are refused.
    assert await edge.admin.log_out(idp.token("alice", "orders:read", sid="s1", jti="a")) == 400
    assert await edge.admin.log_out(idp.token("alice", jti="b", **{**claims, "aud": "another"})) == 400
    assert (await ask(edge.url, "/orders", headers=ended)).status == 200

    assert await edge.admin.log_out(idp.token("alice", jti="c", **claims)) == 200
    assert (await ask(edge.url, "/orders", headers=ended)).status == 401
    assert (await ask(edge.url, "/orders", headers=other)).status == 200
