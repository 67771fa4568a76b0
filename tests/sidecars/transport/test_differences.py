"""The table in docs/transport.md of what our transport does otherwise than grpcio and grpc-go, as servers.

Both of our transports are asked here with the same bytes. What grpc-go does was seen with 1.85.0.
"""

import asyncio
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecars.transport.api.service import Call, Code, Unary
from sidecars.transport.http2.frames import ErrorCode
from tests.support.transport.harness import Serve, Served
from tests.support.transport.rawclient import Answer, Headers, message, raw_client, request_headers

PAGE = (Path(__file__).parents[3] / "docs" / "transport.md").read_text(encoding="utf-8")
HELLO = message(b"hello")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a client sends, and what becomes of the call."""

    sent: str
    own: str
    grpcio: str
    headers: Headers
    body: bytes = HELLO
    trailers: tuple[tuple[str, str], ...] = ()


def usual(*extra: tuple[str, str], drop: tuple[str, ...] = ()) -> Headers:
    return request_headers("Echo", *extra, drop=drop)


TIMED = usual(("grpc-timeout", "300m"))

DIFFERENCES = (
    Difference("two messages on a unary call", "UNIMPLEMENTED", "OK", usual(), message(b"1") + message(b"2")),
    Difference("no message on a unary call", "UNIMPLEMENTED", "DEADLINE_EXCEEDED", TIMED, b""),
    Difference("an end within a message", "INTERNAL", "DEADLINE_EXCEEDED", TIMED, HELLO[:-1]),
    Difference("bytes after the message", "INTERNAL", "OK", usual(), HELLO + b"\0\0"),
    Difference("a compressed flag of 2", "INTERNAL", "OK", usual(), message(b"hello", flag=2)),
    Difference(
        "`content-type: application/json`", "HTTP 415", "OK", usual(("content-type", "application/json"))
    ),
    Difference(
        "`content-type: application/grpc-web`",
        "HTTP 415",
        "OK",
        usual(("content-type", "application/grpc-web")),
    ),
    Difference("no content-type", "HTTP 415", "OK", usual(drop=("content-type",))),
    Difference("GET", "HTTP 405", "reset INTERNAL_ERROR", usual((":method", "GET"))),
    Difference(
        "`grpc-encoding: deflate`",
        "UNIMPLEMENTED",
        "OK",
        usual(("grpc-encoding", "deflate")),
        message(zlib.compress(b"hello"), flag=1),
    ),
    Difference(
        "`grpc-encoding: snappy`",
        "UNIMPLEMENTED",
        "INTERNAL",
        usual(("grpc-encoding", "snappy")),
        message(b"hello", flag=1),
    ),
    Difference("`grpc-timeout` of nine digits", "INTERNAL", "OK", usual(("grpc-timeout", "123456789S"))),
    Difference("two `-bin` values joined by a comma", "OK", "INTERNAL", usual(("x-bin", "YQ,YWI"))),
    Difference("blanks around metadata", "OK", "OK", usual(("x-a", " v "))),
    Difference("no `te`", "OK", "reset INTERNAL_ERROR", usual(drop=("te",))),
    Difference("`te: gzip`", "reset PROTOCOL_ERROR", "INTERNAL", usual(("te", "gzip"))),
    Difference("`connection: close`", "reset PROTOCOL_ERROR", "OK", usual(("connection", "close"))),
    Difference("a name in upper case", "reset PROTOCOL_ERROR", "INTERNAL", usual(("X-A", "v"))),
    Difference("neither `:authority` nor `host`", "OK", "reset INTERNAL_ERROR", usual(drop=(":authority",))),
    Difference("`:scheme: ftp`", "OK", "INTERNAL", usual((":scheme", "ftp"))),
    Difference(
        "a `content-length` that is wrong", "reset PROTOCOL_ERROR", "OK", usual(("content-length", "9"))
    ),
    Difference("trailers after the request", "OK", "OK", usual(), trailers=(("x-t", "1"),)),
    Difference(
        "a gzip message",
        "OK, not compressed",
        "OK, not compressed",
        usual(("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")),
        message(gzip.compress(b"hello" * 100), flag=1),
    ),
)


def outcome(answer: Answer) -> str:
    """As the table tells it."""
    http_status = answer.headers.get(":status", "200")
    if http_status != "200":
        return f"HTTP {http_status}"
    if answer.status is not None:
        return Code(answer.status).name
    return f"reset {ErrorCode(answer.reset_code).name}" if answer.reset_code is not None else "none"


async def answered(served: Served, difference: Difference) -> Answer:
    """Return the answer to the request of a row."""
    async with raw_client(served) as client:
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        stream_id = client.open(difference.headers)
        client.send(stream_id, difference.body, end=not difference.trailers)
        if difference.trailers:
            client.h2.send_headers(stream_id, difference.trailers, end_stream=True)
            client.flush()
        return await client.answer(stream_id)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.sent)
async def test_each_row_is_what_happens(serve: Serve, transport: str, difference: Difference) -> None:
    def echo(request: bytes, call: Call) -> bytes:
        return request

    served = await serve({"Echo": Unary(echo)})
    try:
        async with asyncio.timeout(10):
            answer = await answered(served, difference)
    except TimeoutError:
        # On Python 3.14, about one in a thousand of these calls gets no answer from grpc.aio.
        assert transport == "grpcio"
        answer = await answered(served, difference)
    expected = difference.own if transport == "native" else difference.grpcio
    status, _, reply = expected.partition(", ")
    assert outcome(answer) == status
    if reply == "not compressed":
        assert answer.data == message(b"hello" * 100)


def test_the_page_has_these_rows_and_no_other() -> None:
    [table] = re.findall(r"^\| a client sends \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [tuple(cell.strip() for cell in row.strip("|").split(" | "))[:3] for row in table.splitlines()]
    assert rows == [(one.sent, one.own, one.grpcio) for one in DIFFERENCES]
