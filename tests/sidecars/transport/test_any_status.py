"""How calls end badly: the same status on every transport."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    Code,
    Method,
    ServerStreaming,
    StatusError,
    Unary,
)
from tests.support.transport.harness import SERVICE, Connect, Serve, outcome, path, read_all

FAILURES = [code for code in Code if code is not Code.OK]


def refuse_by_name(request: bytes, call: Call) -> bytes:
    name, _, message = request.decode().partition(":")
    raise StatusError(Code[name], message)


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
async def test_every_code_reaches_the_client_by_its_number(
    serve: Serve, connect: Connect, code: Code
) -> None:
    served = await serve({"Refuse": Unary(refuse_by_name)})
    got, message = await outcome(connect(served).unary("Refuse", f"{code.name}:no".encode()))
    assert (got.value[0], message) == (code.value, "no")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "plain",
        "grüße, Ελλάδα, 日本, 🐍",
        "100 % of %41",
        "two\nlines\r\n",
        "tab\tnul\x00del\x7f",
        " edges ",
        "x" * 2000,
    ],
    ids=["none", "plain", "unicode", "percent", "lines", "control", "edges", "long"],
)
async def test_any_message_survives_the_header(serve: Serve, connect: Connect, message: str) -> None:
    """Percent-encoded as the gRPC HTTP/2 protocol asks for grpc-message."""
    served = await serve({"Refuse": Unary(refuse_by_name)})
    request = f"ABORTED:{message}".encode()
    assert await outcome(connect(served).unary("Refuse", request)) == (
        grpc.StatusCode.ABORTED,
        message,
    )


async def raise_later(request: bytes, call: Call) -> bytes:
    raise RuntimeError("password=hunter2")


def raise_at_once(request: bytes, call: Call) -> bytes:
    raise RuntimeError("password=hunter2")


def ok_as_an_error(request: bytes, call: Call) -> bytes:
    raise StatusError(Code.OK, "password=hunter2")


async def raise_reading(messages: AsyncIterator[bytes], call: Call) -> bytes:
    async for _ in messages:
        raise RuntimeError("password=hunter2")
    return b""


async def raise_streaming(request: bytes, call: Call) -> AsyncIterator[bytes]:
    yield b"first"
    raise RuntimeError("password=hunter2")


async def raise_both(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message
        raise RuntimeError("password=hunter2")


@pytest.mark.parametrize(
    "method",
    [
        Unary(raise_later),
        Unary(raise_at_once),
        Unary(ok_as_an_error),
        ClientStreaming(raise_reading),
        ServerStreaming(raise_streaming),
        Bidirectional(raise_both),
    ],
    ids=["awaited", "at_once", "ok_as_an_error", "client_stream", "server_stream", "both"],
)
async def test_a_handler_that_raises_answers_internal_and_tells_the_peer_nothing(
    serve: Serve, connect: Connect, method: Method
) -> None:
    """The text may hold a secret; the id in the answer finds it in the log."""
    served = await serve({"Boom": method})
    client = connect(served)
    with capture_logs() as logs:
        match method:
            case Unary():
                code, message = await outcome(client.unary("Boom", b"x"))
            case ClientStreaming():
                code, message = await outcome(client.client_stream("Boom", iter([b"x"])))
            case ServerStreaming():
                code, message = await outcome(read_all(client.server_stream("Boom", b"x")))
            case Bidirectional():
                code, message = await outcome(read_all(client.both("Boom", iter([b"x"]))))
    assert code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in message
    failures = [log for log in logs if log["event"] == "handler failed"]
    assert [log["method"] for log in failures] == [path("Boom")]
    assert failures[0]["error_id"] in message


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", "a" * 32),
        ("00-no-trace-01", None),
        (None, None),
    ],
    ids=["a trace", "no trace context", "nothing"],
)
async def test_a_handler_that_raises_is_logged_with_the_trace_of_its_call(
    serve: Serve, connect: Connect, traceparent: str | None, trace_id: str | None
) -> None:
    """A value that is not a trace does not appear in the log."""
    served = await serve({"Boom": Unary(raise_at_once)})
    metadata = (("traceparent", traceparent),) if traceparent is not None else ()
    with capture_logs() as logs:
        await outcome(connect(served).unary("Boom", b"x", metadata=metadata))
    assert [log["trace_id"] for log in logs if log["event"] == "handler failed"] == [trace_id]


async def test_replies_that_were_sent_before_the_failure_arrive(serve: Serve, connect: Connect) -> None:
    async def give_up(request: bytes, call: Call) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        raise StatusError(Code.DATA_LOSS, "no more")

    served = await serve({"GiveUp": ServerStreaming(give_up)})
    call = connect(served).server_stream("GiveUp", b"")
    assert [await call.read(), await call.read()] == [b"one", b"two"]
    assert await outcome(read_all(call)) == (grpc.StatusCode.DATA_LOSS, "no more")


async def test_a_failure_leaves_the_connection_in_order(serve: Serve, connect: Connect) -> None:
    served = await serve({"Boom": Unary(raise_at_once), "Refuse": Unary(refuse_by_name)})
    client = connect(served)
    for _ in range(3):
        assert (await outcome(client.unary("Boom", b"")))[0] is grpc.StatusCode.INTERNAL
        code, _ = await outcome(client.unary("Refuse", b"NOT_FOUND:x"))
        assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "unknown", [path("Nope"), "/no.Such/Method", f"/{SERVICE}", f"/{SERVICE}/", path("Refuse/more"), "/"]
)
async def test_an_unknown_method_is_unimplemented(serve: Serve, connect: Connect, unknown: str) -> None:
    served = await serve({"Refuse": Unary(refuse_by_name)})
    code, _ = await outcome(connect(served).unary(unknown, b"x"))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unknown_method_with_a_large_request_is_unimplemented(
    serve: Serve, connect: Connect
) -> None:
    served = await serve({})
    code, _ = await outcome(connect(served).unary("Nope", bytes(1_000_000)))
    assert code is grpc.StatusCode.UNIMPLEMENTED
