"""Every call is counted once, with the code its caller saw."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Exemplar

from sidecars.observability.call_metrics import CallMetrics
from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    Code,
    Method,
    ServerStreaming,
    Service,
    StatusError,
    Unary,
    UnaryHandler,
)

CALL = cast("Call", None)
WALL = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Measured:
    """One measured method, and its values in the registry."""

    def __init__(self, method: Method, kind: str = "unary") -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        service = CallMetrics(self.registry, self.clock, wall_clock=lambda: WALL).measured(
            Service("a.B", {"C": method})
        )
        self.handler: Any = service.methods["C"].handler
        self._labels = {"grpc_type": kind, "grpc_service": "a.B", "grpc_method": "C"}

    def handled(self, code: str) -> float | None:
        return self.registry.get_sample_value(
            "grpc_server_handled_total", {**self._labels, "grpc_code": code}
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {**self._labels, **labels})

    @property
    def started(self) -> float | None:
        return self.value("grpc_server_started_total")


def test_a_reply_at_once_stays_a_reply_at_once() -> None:
    measured = Measured(Unary(lambda request, _: request + b"!"))
    assert measured.handler(b"a", CALL) == b"a!"
    assert (measured.started, measured.handled("OK")) == (1, 1)


def test_ok_is_there_before_the_first_call() -> None:
    measured = Measured(Unary(lambda request, _: request))
    assert measured.handled("OK") == 0
    assert measured.handled("Internal") is None


async def test_an_awaited_reply_is_in_flight_until_it_is_there() -> None:
    release = asyncio.Event()

    async def later() -> bytes:
        await release.wait()
        return b"late"

    measured = Measured(Unary(lambda _, __: later()))
    task = asyncio.ensure_future(measured.handler(b"", CALL))
    await asyncio.sleep(0)
    assert (measured.started, measured.handled("OK")) == (1, 0)
    measured.clock.seconds = 0.3
    release.set()
    assert await task == b"late"
    assert (measured.started, measured.handled("OK")) == (1, 1)
    assert measured.value("grpc_server_handling_seconds_sum") == 0.3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StatusError(Code.INVALID_ARGUMENT), "InvalidArgument"),
        (StatusError(Code.RESOURCE_EXHAUSTED), "ResourceExhausted"),
        (StatusError(Code.OK), "Internal"),
        (ValueError("a defect"), "Internal"),
    ],
)
async def test_an_error_passes_and_is_counted_with_its_code(error: Exception, code: str) -> None:
    def at_once(request: bytes, call: Call) -> bytes:
        raise error

    def later(request: bytes, call: Call) -> Awaitable[bytes]:
        async def fail() -> bytes:
            raise error

        return fail()

    for handler in (at_once, later):
        measured = Measured(Unary(handler))
        with pytest.raises(type(error)):
            await measured.handler(b"", CALL)
        assert (measured.handled(code), measured.handled("OK"), measured.started) == (1, 0, 1)


async def test_a_caller_who_leaves_is_counted_as_cancelled() -> None:
    async def forever() -> bytes:
        await asyncio.Event().wait()
        return b""

    measured = Measured(Unary(lambda _, __: forever()))
    task = asyncio.ensure_future(measured.handler(b"", CALL))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert measured.handled("Cancelled") == 1


async def test_a_reply_that_is_a_future_is_counted_without_a_task() -> None:
    replies: list[asyncio.Future[bytes]] = []

    def later(_request: bytes, _call: Call) -> Awaitable[bytes]:
        replies.append(asyncio.get_running_loop().create_future())
        return replies[-1]

    measured = Measured(Unary(later))
    returned = [measured.handler(b"", CALL) for _ in range(3)]
    assert returned == replies
    assert measured.started == 3
    replies[0].set_result(b"late")
    replies[1].set_exception(StatusError(Code.UNAVAILABLE))
    replies[2].cancel()
    assert await asyncio.gather(*returned, return_exceptions=True)
    await asyncio.sleep(0)  # since Python 3.12 gather does not yield for futures that are done
    counted = [measured.handled(code) for code in ("OK", "Unavailable", "Cancelled")]
    assert (counted, measured.started) == ([1, 1, 1], 3)


def test_a_latency_falls_into_its_bucket_and_all_above() -> None:
    def take(request: bytes, _call: Call) -> bytes:
        measured.clock.seconds += float(request)
        return b""

    measured = Measured(Unary(take))
    for seconds in (b"0.00001", b"0.00003", b"0.7", b"5"):
        measured.handler(seconds, CALL)
    counts = {
        bound: measured.value("grpc_server_handling_seconds_bucket", le=bound)
        for bound in ("2e-05", "5e-05", "0.5", "1.0", "+Inf")
    }
    assert counts == {"2e-05": 1, "5e-05": 2, "0.5": 2, "1.0": 3, "+Inf": 4}
    assert measured.value("grpc_server_handling_seconds_count") == 4


async def requests() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def test_a_client_stream_is_counted_when_it_ends() -> None:
    async def join(messages: AsyncIterator[bytes], _call: Call) -> bytes:
        return b"".join([message async for message in messages])

    measured = Measured(ClientStreaming(join), "client_stream")
    assert await measured.handler(requests(), CALL) == b"ab"
    assert measured.handled("OK") == 1
    assert measured.value("grpc_server_handling_seconds_count") is None  # hours say nothing of latency


async def test_a_server_stream_left_half_way_is_closed_and_counted_as_cancelled() -> None:
    closed = []

    async def count(_request: bytes, _call: Call) -> AsyncIterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append(True)

    measured = Measured(ServerStreaming(count), "server_stream")
    async with aclosing(measured.handler(b"", CALL)) as replies:
        assert await anext(replies) == b"1"
        assert (measured.started, measured.handled("OK")) == (1, 0)
    assert closed == [True]
    assert measured.handled("Cancelled") == 1


async def test_a_bidirectional_stream_is_counted_with_its_error() -> None:
    async def echo(messages: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message
        raise StatusError(Code.UNAVAILABLE)

    measured = Measured(Bidirectional(echo), "bidi_stream")
    replies = measured.handler(requests(), CALL)
    assert [await anext(replies), await anext(replies)] == [b"a", b"b"]
    with pytest.raises(StatusError):
        await anext(replies)
    assert measured.handled("Unavailable") == 1


def exemplars(measured: Measured) -> dict[str, Exemplar]:
    """The exemplars at this scrape, by the upper bound of their bucket."""
    return {
        sample.labels["le"]: sample.exemplar
        for metric in measured.registry.collect()
        for sample in metric.samples
        if sample.exemplar is not None
    }


def with_exemplars(handler: UnaryHandler) -> Measured:
    return Measured(Unary(handler, lambda reply: {"decision_id": reply.decode()} if reply else {}))


def test_a_bucket_has_as_exemplar_the_first_call_since_the_last_scrape() -> None:
    measured = with_exemplars(lambda request, _: request)
    measured.clock.seconds = 100.0
    measured.handler(b"first", CALL)
    measured.handler(b"second", CALL)
    assert exemplars(measured) == {"2e-05": Exemplar({"decision_id": "first"}, 0.0, WALL)}
    measured.clock.seconds = 103.0
    measured.handler(b"third", CALL)
    measured.clock.seconds = 105.0
    assert exemplars(measured) == {"2e-05": Exemplar({"decision_id": "third"}, 0.0, WALL - 2)}


def test_an_exemplar_stays_until_its_bucket_has_another_call() -> None:
    measured = with_exemplars(lambda request, _: request)
    measured.handler(b"only", CALL)
    assert [exemplars(measured).keys() for _ in range(2)] == [{"2e-05"}, {"2e-05"}]


@pytest.mark.parametrize("as_future", [True, False])
async def test_a_slow_call_is_the_exemplar_of_its_bucket(*, as_future: bool) -> None:
    reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def later() -> bytes:
        return await reply

    measured = with_exemplars(lambda _, __: reply if as_future else later())
    waiting = asyncio.ensure_future(measured.handler(b"", CALL))
    await asyncio.sleep(0)
    measured.clock.seconds = 0.15
    reply.set_result(b"slow")
    assert await waiting == b"slow"
    await asyncio.sleep(0)  # the callbacks of a future run after it is done
    assert exemplars(measured) == {"0.2": Exemplar({"decision_id": "slow"}, 0.15, WALL)}


async def test_a_call_that_fails_or_has_no_labels_is_no_exemplar() -> None:
    async def fails() -> bytes:
        raise StatusError(Code.UNAVAILABLE)

    measured = with_exemplars(lambda request, _: request or fails())
    with pytest.raises(StatusError):
        await measured.handler(b"", CALL)
    assert not exemplars(measured)
    silent = with_exemplars(lambda _, __: b"")
    silent.handler(b"", CALL)
    assert not exemplars(silent)


def test_a_method_without_labels_keeps_no_call() -> None:
    measured = Measured(Unary(lambda request, _: request))
    measured.handler(b"a", CALL)
    assert not exemplars(measured)
