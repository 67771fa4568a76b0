"""A session created at one sidecar is valid at the other, in a cookie or a header; Redis stores no token."""

from typing import Any

from redis.asyncio import Redis

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge

REDIS = True


async def scenario(edge: Edge) -> None:
    def configure(policy: dict[str, Any]) -> None:
        policy["credentials"]["sessions"]["locations"] = [{"cookie": "session"}, {"header": "x-session"}]

    await edge.change_policy(configure)
    token = await edge.admin.create_session("carol", ("orders:read",))
    for url in (edge.url, edge.other_url):
        for headers in ({"cookie": f"session={token}"}, {"x-session": token}):
            answer = await ask(url, "/orders", headers=headers)
            assert answer.status == 200
            assert answer.upstream_values("x-auth-subject") == ["carol"]
        assert (await ask(url, "/orders", headers={"x-session": token[::-1]})).status == 401

    assert edge.places.redis_url is not None
    async with Redis.from_url(edge.places.redis_url) as redis:
        keys = [key async for key in redis.scan_iter("*")]
        held = keys + [await redis.get(key) or b"" for key in keys if await redis.type(key) == b"string"]
    assert len(keys) > 1
    assert not any(token.encode() in text for text in held)
