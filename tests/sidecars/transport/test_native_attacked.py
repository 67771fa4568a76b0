"""A server under each attack of issue 3: its memory stays bounded, and other connections do not notice."""

import asyncio
import gzip
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import Call, ClientStreaming, Method, Unary
from sidecars.transport.http2 import frames
from sidecars.transport.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from sidecars.transport.server.server import GrpcServer
from tests.support.transport.harness import LOOPBACK, SERVICE, Connect, Served, services, within
from tests.support.transport.wire import OPENING, Bench, block, frame, message, parse, request

CANCEL = int(ErrorCode.CANCEL).to_bytes(4, "big")
CALM, PROTOCOL = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.PROTOCOL_ERROR
FLOW, SIZE = ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.FRAME_SIZE_ERROR
COMPRESSION = ErrorCode.COMPRESSION_ERROR

MOST_BYTES = 4 * 1024 * 1024
"""What a connection may come to hold under attack, with the limits below."""

LIMITS = Limits(
    max_message_bytes=1024 * 1024,
    connection_window_bytes=256 * 1024,
    max_held_bytes=1024 * 1024,
    max_unsent_bytes=1024 * 1024,
    max_open_header_bytes=2 * 1024 * 1024,
)
ROUNDS = 4_000

Attack = Callable[[str], Iterator[bytes]]
"""What the attacker sends behind the greeting, read by read; `package` is before the method in each path."""


def opened(package: str, method: str, stream_id: int, *more: tuple[str, str], flags: int = 0) -> bytes:
    return frame(HEADERS, END_HEADERS | flags, stream_id, request(f"{package}/{method}", *more))


def stream_ids() -> Iterator[int]:
    return itertools.count(1, 2)


def rapid_reset(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield opened(package, "Echo", number) + frame(RST_STREAM, 0, number, CANCEL)


def made_you_reset(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield opened(package, "Join", number) + frame(WINDOW_UPDATE, 0, number, bytes(4))


def malformed(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield frame(HEADERS, END_HEADERS, number, block((":method", "POST")))


def continuation(package: str) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1)
    yield from itertools.repeat(frame(CONTINUATION, 0, 1))


def long_block(package: str) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, bytes(16_000))
    yield from itertools.repeat(frame(CONTINUATION, 0, 1, bytes(16_000)))


def hpack_bomb(package: str) -> Iterator[bytes]:
    entry = b"\x40\x01x\x7f\x81\x1e" + b"y" * 3968
    yield frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 10_000)


def huge_table(package: str) -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\xff\x07" + request(f"{package}/Echo"))


def new_entries(package: str) -> Iterator[bytes]:
    """Each call fills the header table with entries never seen before."""
    for number in stream_ids():
        entry = b"\x40\x08" + f"{number:08}".encode() + b"\x7f\x81\x03" + b"v" * 512
        yield frame(HEADERS, END_HEADERS, number, request(f"{package}/Echo") + entry) + frame(
            DATA, END_STREAM, number, message(b"x")
        )


def refused_lists(package: str) -> Iterator[bytes]:
    """Each over the size of a list that a call may have; without Huffman codes, which take long to decode."""
    fields = b"".join(b"\x00\x05x-%03d\x7f\xa1\x05" % number + b"v" * 800 for number in range(20))
    encoded = request(f"{package}/Echo") + fields
    for number in stream_ids():
        yield frame(HEADERS, END_HEADERS | END_STREAM, number, encoded)


def long_list(package: str) -> Iterator[bytes]:
    encoded = request(f"{package}/Echo", *((f"x-{number}", "v" * 100) for number in range(500)))
    *first, last = (encoded[start : start + 16_000] for start in range(0, len(encoded), 16_000))
    yield frame(HEADERS, 0, 1, first[0])
    yield from (frame(CONTINUATION, 0, 1, fragment) for fragment in first[1:])
    yield frame(CONTINUATION, END_HEADERS, 1, last)


def always(data: bytes) -> Attack:
    return lambda package: itertools.repeat(data)


def empty_data(package: str) -> Iterator[bytes]:
    yield opened(package, "Join", 1)
    yield from itertools.repeat(frame(DATA, 0, 1))


def too_many_streams(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield opened(package, "Join", number)


def byte_a_stream(package: str) -> Iterator[bytes]:
    """As many streams as there may be, each with the first bytes of a message that does not go on."""
    for number in itertools.islice(stream_ids(), LIMITS.max_concurrent_streams):
        yield opened(package, "Echo", number) + frame(DATA, 0, number, message(bytes(100_000))[:6])


def half_messages(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield opened(package, "Echo", number) + frame(DATA, 0, number, message(bytes(1_000_000))[:16_000])


def unread_messages(package: str) -> Iterator[bytes]:
    """To a handler that does not read."""
    yield opened(package, "Join", 1)
    yield from itertools.repeat(frame(DATA, 0, 1, message(bytes(16_000))))


def long_lists(package: str) -> Iterator[bytes]:
    """Open streams with as many tiny fields as a header list may have."""
    encoded = request(f"{package}/Join", *((f"{number:03x}", "") for number in range(440)))
    for number in itertools.islice(stream_ids(), 300):
        yield frame(HEADERS, END_HEADERS, number, encoded)


def false_length(package: str) -> Iterator[bytes]:
    for number in stream_ids():
        yield opened(package, "Echo", number) + frame(DATA, END_STREAM, number, b"\x00\xff\xff\xff\xff")


def gzip_bombs(package: str) -> Iterator[bytes]:
    body = message(gzip.compress(bytes(1_000_000)), flag=1)
    for number in stream_ids():
        yield opened(package, "Echo", number, ("grpc-encoding", "gzip")) + frame(
            DATA, END_STREAM, number, body
        )


def shut_windows(package: str) -> Iterator[bytes]:
    """Asks for much, and lets nothing of it out."""
    yield frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    for number in stream_ids():
        body = message(bytes(16_000))
        yield opened(package, "Echo", number) + frame(DATA, END_STREAM, number, body)


def bytewise(package: str) -> Iterator[bytes]:
    """A header block that trickles in, a byte a read."""
    data = opened(package, "Echo", 1, ("x-long", "v" * 3000))
    yield from (data[number : number + 1] for number in range(len(data) - 1))


ENDED: dict[str, tuple[Attack, ErrorCode]] = {
    "rapid reset (CVE-2023-44487)": (rapid_reset, CALM),
    "resets that we are made to send (CVE-2025-8671)": (made_you_reset, CALM),
    "malformed requests": (malformed, CALM),
    "continuation flood (CVE-2024-27316)": (continuation, CALM),
    "a block without end": (long_block, CALM),
    "hpack bomb (CVE-2016-6581)": (hpack_bomb, CALM),
    "huge table": (huge_table, COMPRESSION),
    "header list over the cap": (long_list, CALM),
    "ping flood (CVE-2019-9512)": (always(frame(PING, 0, 0, bytes(8))), CALM),
    "settings flood (CVE-2019-9515)": (always(frame(SETTINGS, 0, 0)), CALM),
    "empty data (CVE-2019-9518)": (empty_data, CALM),
    "priority flood (CVE-2019-9513)": (always(frame(PRIORITY, 0, 1, bytes(5))), CALM),
    "unknown frames": (always(frame(0xFA, 0, 0, b"whatever")), CALM),
    "window updates": (always(frames.window_update(0, 1)), CALM),
    "window overflow": (always(frames.window_update(0, frames.MAX_WINDOW_BYTES)), FLOW),
    "zero increment": (always(frame(WINDOW_UPDATE, 0, 0, bytes(4))), PROTOCOL),
    "concurrent-stream overrun": (too_many_streams, CALM),
    "half-sent messages beyond the window": (half_messages, FLOW),
    "gzip bombs": (gzip_bombs, CALM),
    "replies behind shut windows (CVE-2019-9517)": (shut_windows, CALM),
    "noise": (always(bytes(range(256))), SIZE),
}
ENDURED: dict[str, Attack] = {
    "a byte on each stream": byte_a_stream,
    "a header block byte by byte": bytewise,
    "messages that the handler does not read": unread_messages,
    "lengths larger than what is sent": false_length,
    "header lists of open streams": long_lists,
    "header lists that are refused": refused_lists,
    "entries that fill the header table": new_entries,
}
"""Those that cost one stream each, or that time ends: see test_native_attacks.py."""


def goaway_code(output: bytes) -> ErrorCode | None:
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in parse(output) if kind == GOAWAY]
    return ErrorCode(codes[0]) if codes else None


def peak_bytes(attack: Attack) -> tuple[int, Bench, bytes]:
    """The most that a connection held under `attack`, less what it held before; and its last words."""
    bench = Bench(LIMITS)
    bench.feed(OPENING)
    bench.feed(opened("/p", "Echo", 1))  # what is made once for the process is there after this
    bench = Bench(LIMITS)
    bench.feed(OPENING)
    bench.calls.seen = _Forgetful()
    output = b""
    tracemalloc.start()
    try:
        for data in itertools.islice(attack("/p"), ROUNDS):
            output = bench.feed(data)
            if bench.connection.over:
                break
        return tracemalloc.get_traced_memory()[1], bench, output
    finally:
        tracemalloc.stop()


class _Forgetful(list[tuple[str, bytes]]):
    """Where the bench would keep every message it saw."""

    def append(self, _: tuple[str, bytes]) -> None: ...


@pytest.mark.parametrize(("attack", "code"), ENDED.values(), ids=ENDED.keys())
def test_memory_is_bounded_until_the_attack_is_ended(attack: Attack, code: ErrorCode) -> None:
    most, bench, output = peak_bytes(attack)
    assert goaway_code(output) is code
    assert most < MOST_BYTES
    assert not bench.connection.streams.table


@pytest.mark.parametrize("attack", ENDURED.values(), ids=ENDURED.keys())
def test_memory_is_bounded_while_the_attack_goes_on(attack: Attack) -> None:
    most, bench, _ = peak_bytes(attack)
    assert not bench.connection.over or attack is unread_messages
    assert most < MOST_BYTES


@pytest.mark.parametrize(
    "build",
    [
        lambda n: opened("/p", "Echo", 1, ("x-long", "v" * 300))[n : n + 1],
        lambda n: frame(CONTINUATION, 0, 1, b"v") if n else frame(HEADERS, 0, 1, request("/p/Echo")),
    ],
    ids=["byte by byte", "frame by frame"],
)
def test_a_header_block_that_trickles_in_is_not_waited_for(build: Callable[[int], bytes]) -> None:
    """However often something of it comes, its time runs from its beginning."""
    bench = Bench(Limits(message_timeout_seconds=30, max_continuation_frames=1000))
    bench.feed(OPENING)
    for number in range(31):
        bench.feed(build(number))
        bench.now += 1.0
        bench.connection.tick(bench.now, Lifetime(keepalive_seconds=None))
        assert bench.connection.over is (number == 30), number
    assert goaway_code(bench.connection.take()) is CALM


def echo(request: bytes, call: Call) -> bytes:
    return request


async def ignore(messages: AsyncIterator[bytes], call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server with the same limits."""
    methods: dict[str, Method] = {"Echo": Unary(echo), "Join": ClientStreaming(ignore)}
    server = GrpcServer(services(methods), [LOOPBACK], limits=LIMITS)
    await within(server.start())
    yield Served(server, (LOOPBACK,))
    await within(server.drain(0))


def at_once(attack: Attack) -> bytes:
    """All rounds of an attack, or the first megabytes of it."""
    data = bytearray(OPENING)
    for part in itertools.islice(attack(f"/{SERVICE}"), ROUNDS):
        data += part
        if len(data) > MOST_BYTES:
            break
    return bytes(data)


@pytest.mark.parametrize(("attack", "code"), ENDED.values(), ids=ENDED.keys())
async def test_other_connections_do_not_notice(
    served: Served, connect: Connect, attack: Attack, code: ErrorCode
) -> None:
    """The attacker is told why and cut off; the neighbour's calls go on."""
    neighbour = connect(served)
    assert await within(neighbour.unary("Echo", b"before")) == b"before"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(at_once(attack))
    during = await within(neighbour.unary("Echo", b"during"))
    output = await within(reader.read())
    writer.transport.abort()
    assert during == b"during"
    assert goaway_code(output) is code
    assert await within(neighbour.unary("Echo", b"after")) == b"after"


@pytest.mark.parametrize("attack", ENDURED.values(), ids=ENDURED.keys())
async def test_other_connections_do_not_notice_one_that_stays(
    served: Served, connect: Connect, attack: Attack
) -> None:
    neighbour = connect(served)
    assert await within(neighbour.unary("Echo", b"before")) == b"before"
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(at_once(attack))
    for number in range(20):
        assert await within(neighbour.unary("Echo", b"%d" % number)) == b"%d" % number
    writer.transport.abort()


async def test_http1_is_told_what_is_spoken_here(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    output = await within(reader.read())
    writer.transport.abort()
    assert goaway_code(output) is PROTOCOL
    assert b"prior knowledge" in output


async def test_many_faults_are_one_log_line(served: Served) -> None:
    with capture_logs() as logs:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"no HTTP/2, to be sure of it")
            assert goaway_code(await within(reader.read())) is PROTOCOL
            writer.transport.abort()
    lines = [log for log in logs if log["event"] == "connection ended"]
    assert 1 <= len(lines) < 20
    assert lines[0]["reason"] == "bad_preface"
    assert "preface" in lines[0]["detail"]
