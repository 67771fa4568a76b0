"""grpc.health.v1, as grpc/grpc doc/health-checking.md wants it."""

import asyncio
from typing import Any, cast

import pytest

from protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from sidecars.admin.health import Health, ProcessPhase
from sidecars.transport.api.service import Call, Code, StatusError

CALL = cast("Call", None)
Status = HealthCheckResponse


def asked(name: str) -> bytes:
    return HealthCheckRequest(service=name).SerializeToString()


def said(reply: bytes) -> int:
    return HealthCheckResponse.FromString(reply).status


def check(health: Health, name: str) -> int:
    handler: Any = health.service.methods["Check"].handler
    return said(handler(asked(name), CALL))


def watch(health: Health, name: str) -> Any:
    handler: Any = health.service.methods["Watch"].handler
    return handler(asked(name), CALL)


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (ProcessPhase.STARTING, Status.NOT_SERVING),
        (ProcessPhase.READY, Status.SERVING),
        (ProcessPhase.DRAINING, Status.NOT_SERVING),
    ],
)
@pytest.mark.parametrize("name", ["", "a.B"])
def test_check_follows_the_phase(name: str, phase: ProcessPhase, status: int) -> None:
    health = Health(["a.B"])
    health.enter(phase)
    assert check(health, name) == status


def test_check_of_an_unknown_service_is_not_found() -> None:
    with pytest.raises(StatusError) as caught:
        check(Health(["a.B"]), "a.C")
    assert caught.value.status.code is Code.NOT_FOUND


def test_a_malformed_request_is_an_invalid_argument() -> None:
    handler: Any = Health([]).service.methods["Check"].handler
    with pytest.raises(StatusError) as caught:
        handler(b"\xff\xff", CALL)
    assert caught.value.status.code is Code.INVALID_ARGUMENT


async def test_watch_tells_the_state_at_once_and_then_each_change() -> None:
    health = Health(["a.B"])
    replies = watch(health, "a.B")
    assert said(await anext(replies)) == Status.NOT_SERVING
    waiting = asyncio.ensure_future(anext(replies))
    await asyncio.sleep(0)
    health.enter(ProcessPhase.READY)
    assert said(await waiting) == Status.SERVING
    await replies.aclose()


async def test_watch_misses_no_state_that_lasts_but_tells_none_twice() -> None:
    health = Health(["a.B"])
    replies = watch(health, "a.B")
    await anext(replies)
    health.enter(ProcessPhase.READY)
    health.enter(ProcessPhase.DRAINING)
    health.enter(ProcessPhase.READY)
    assert said(await anext(replies)) == Status.SERVING
    health.enter(ProcessPhase.READY)
    waiting = asyncio.ensure_future(anext(replies, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    health.finish_streams()
    assert await waiting is None


async def test_watch_of_an_unknown_service_says_so_and_stays_open() -> None:
    health = Health([])
    replies = watch(health, "a.C")
    assert said(await anext(replies)) == Status.SERVICE_UNKNOWN
    waiting = asyncio.ensure_future(anext(replies, None))
    health.enter(ProcessPhase.READY)
    await asyncio.sleep(0)
    assert not waiting.done()
    health.finish_streams()
    assert await waiting is None


async def test_a_watch_that_ends_has_told_the_last_state() -> None:
    health = Health([])
    health.enter(ProcessPhase.READY)
    replies = watch(health, "")
    await anext(replies)
    health.enter(ProcessPhase.DRAINING)
    health.finish_streams()
    assert [said(reply) async for reply in replies] == [Status.NOT_SERVING]


async def test_a_watch_begun_after_the_end_tells_the_state_and_ends() -> None:
    health = Health([])
    health.finish_streams()
    assert [said(reply) async for reply in watch(health, "")] == [Status.NOT_SERVING]
