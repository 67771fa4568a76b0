"""Every response has an id that a customer can quote: a denial, a 429 and Envoy's own 503, too."""

import os

import orjson

from sidecars.demo.ask import EdgeResponse, ask
from sidecars.demo.edge import STOP_SECONDS, Edge, serve_sidecars
from sidecars.demo.rows import bearer
from sidecars.demo.until import until

CHOSEN = "chosen-by-the-client"


async def scenario(edge: Edge) -> None:
    token = bearer(edge.provider.token("alice", "orders:read"))
    told = {
        200: await ask(edge.url, "/orders", headers={**token, "x-request-id": CHOSEN}),
        401: await ask(edge.url, "/orders", headers={"x-request-id": CHOSEN}),
        429: await _limited(edge),
    }
    ids = {status: _id(answer, status) for status, answer in told.items()}
    assert CHOSEN not in ids.values()
    assert len(set(ids.values())) == len(ids)
    assert told[200].upstream_values("x-request-id") == [ids[200]]

    async def logged() -> bool:
        lines = [orjson.loads(line) for line in edge.places.access_log.read_bytes().splitlines()]
        found = {line["request_id"]: line["code"] for line in lines}
        return all(found.get(number) == status for status, number in ids.items())

    await until(logged, "the access log has them")

    await edge.sidecars.stop(STOP_SECONDS)
    _id(await ask(edge.url, "/orders", headers=token), 503)
    async with serve_sidecars(edge.places, os.environ):
        assert (await ask(edge.url, "/orders", headers=token)).status == 200


async def _limited(edge: Edge) -> EdgeResponse:
    for _ in range(100):
        answer = await ask(edge.url, "/login", method="POST")
        if answer.status == 429:
            return answer
    raise AssertionError("no limit was met")


def _id(answer: EdgeResponse, status: int) -> str:
    assert answer.status == status
    (value,) = answer.headers.getall("x-request-id")
    return str(value)
