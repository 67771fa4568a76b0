"""Messages that a client sends before it knows that the handler has ended its call."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, ClientStreaming, Code, Service, Status
from sidecars.transport.http2 import frames
from sidecars.transport.http2.frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    ErrorCode,
)
from sidecars.transport.http2.late_messages import FLUSH_SECONDS, end_call
from tests.support.transport.harness import make_server, within
from tests.support.transport.rawclient import RawClient, request_headers
from tests.support.transport.rawclient import message as framed
from tests.support.transport.wire import (
    CANCEL,
    METHODS,
    Bench,
    frame,
    join,
    message,
    opened,
    parse,
    resets,
    waited,
)
from tests.support.transport.wire import settings_received as begun

LEAVING = Status(Code.UNAVAILABLE, "leaving")


class Late:
    """A bench with one call that its handler has ended, and what came on it later.

    With `told`, the client has nothing left to send, and knows that the call has ended.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, most: int = 100, unread: bytes = b"", told: bool = True
    ) -> None:
        self.taken: list[bytes] = []
        self._most = most
        monkeypatch.setitem(METHODS, b"/p/Late", ClientStreaming(join, after_reply=self._take))
        self.bench: Bench = begun(
            Limits(stream_window_bytes=100_000, max_message_bytes=65_535, max_held_bytes=100_000)
        )
        self.bench.feed(opened(1, "/p/Late"))
        self.bench.feed(frame(DATA, 0, 1, message(b"first")))
        self.bench.calls.run()
        self.bench.feed(frame(DATA, 0, 1, unread))
        streams = self.bench.connection.streams
        stream = streams.table[1]
        self.bench.calls._leave(stream)
        end_call(streams, stream, LEAVING, self.bench.now)
        self.output = self.bench.connection.take()
        """What the client was told when the handler ended the call."""
        for _ in range(2 if told else 0):
            self.output = self.answer_ping()
        assert (kinds(self.output)[-1:] == [HEADERS]) is told

    def answer_ping(self) -> bytes:
        """The output of the connection once the client has answered its last PING."""
        [payload] = [payload for kind, _, _, payload in parse(self.output) if kind == PING]
        return self.bench.feed(frames.ping(payload, ack=True))

    def _take(self, body: bytes, _call: Call) -> bool:
        self.taken.append(body)
        return len(self.taken) < self._most


def kinds(output: bytes) -> list[int]:
    return [kind for kind, _, _, _ in parse(output)]


def test_are_handed_over_in_order_with_those_that_the_handler_left(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, unread=message(b"a"))
    late.bench.feed(frame(DATA, 0, 1, message(b"b") + message(b"c")[:3]))
    late.bench.feed(frame(DATA, END_STREAM, 1, message(b"c")[3:]))
    assert late.taken == [b"a", b"b", b"c"]
    assert not late.bench.connection.streams.table


def test_keep_the_window_open(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    body = message(bytes(15_000))
    for _ in range(40):
        assert resets(late.bench.feed(frame(DATA, 0, 1, body))) == []
    assert len(late.taken) == 40
    assert late.bench.connection.streams.receive_flow.unread_bytes == 0


def test_end_with_the_reset_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    late.bench.feed(frame(DATA, 0, 1, message(b"a")))
    late.bench.feed(frame(RST_STREAM, 0, 1, CANCEL))
    assert late.taken == [b"a"]
    assert not late.bench.connection.streams.table


@pytest.mark.parametrize(
    "last",
    [message(gzip.compress(b"x", mtime=0), flag=1), b"\x07" + bytes(4), b"\x00\xff\xff\xff\xff"],
    ids=["compressed", "flag", "length"],
)
def test_are_read_no_more_after_one_that_is_compressed_or_malformed(
    monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    late = Late(monkeypatch)
    late.bench.feed(frame(DATA, 0, 1, message(b"a")))
    late.bench.feed(frame(DATA, 0, 1, last))
    output = b"".join(late.bench.feed(frame(DATA, 0, 1, message(bytes(15_000)))) for _ in range(6))
    assert late.taken == [b"a"]
    assert resets(output) == [(1, ErrorCode.NO_ERROR)]
    assert late.bench.connection.streams.receive_flow.held_bytes == 0


def test_are_read_no_more_once_the_method_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, most=2)
    output = b"".join(late.bench.feed(frame(DATA, 0, 1, message(bytes(15_000)))) for _ in range(6))
    assert len(late.taken) == 2
    assert resets(output) == [(1, ErrorCode.NO_ERROR)]


# -- what the client holds back because a window is shut ---------------------------------------------------


def test_the_windows_open_before_the_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, unread=message(bytes(15_000)), told=False)
    assert kinds(late.output) == [WINDOW_UPDATE, PING]
    flow, stream = late.bench.connection.streams.receive_flow, late.bench.connection.streams.table[1]
    assert (flow.window >= 100_000, stream.receive_window) == (True, 100_000)


def test_the_call_ends_with_a_ping_before_which_nothing_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may answer the first before it sends, because PINGs may overtake DATA."""
    late = Late(monkeypatch, told=False)
    for _ in range(5):
        late.output = late.answer_ping()
        assert kinds(late.output) == [PING]
        late.bench.feed(frame(DATA, 0, 1, message(b"a")))
    late.output = late.answer_ping()
    assert kinds(late.output) == [PING]
    assert kinds(late.answer_ping()) == [HEADERS]
    assert late.taken == [b"a"] * 5


def test_the_call_ends_although_the_client_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, told=False)
    late.bench.now += FLUSH_SECONDS * 1.01
    late.bench.feed(frame(DATA, 0, 1, message(b"a")))
    assert kinds(late.answer_ping()) == [HEADERS]


def test_the_call_ends_although_no_ping_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, told=False)
    assert HEADERS not in kinds(waited(late.bench, FLUSH_SECONDS * 0.9))
    assert kinds(waited(late.bench, FLUSH_SECONDS * 0.2)) == [HEADERS]
    assert kinds(late.answer_ping()) == []


def test_a_ping_that_we_never_sent_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, told=False)
    for payload in (b"what" + bytes(3) + b"\x01", b"end " + bytes(3) + b"\x03"):
        assert late.bench.feed(frames.ping(payload, ack=True) * 3) == b""


def test_the_call_ends_with_its_status_although_a_late_message_is_malformed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = Late(monkeypatch, told=False)
    assert late.bench.feed(frame(DATA, 0, 1, b"\x07" + bytes(4))) == b""
    late.output = late.answer_ping()
    [(kind, flags, _, _)] = parse(late.answer_ping())
    assert (kind, bool(flags & END_STREAM)) == (HEADERS, True)
    assert not late.bench.connection.streams.ending


def test_a_call_that_its_client_resets_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, told=False)
    late.bench.feed(frame(RST_STREAM, 0, 1, CANCEL))
    assert not late.bench.connection.streams.ending
    assert late.answer_ping() == b""


def test_the_answers_to_our_pings_are_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy Envoy has sent more entries each time that it answers, and has a stream for each log."""
    late = Late(monkeypatch, told=False)
    for _ in range(Limits().pings.burst * 3):
        late.bench.feed(frame(DATA, 0, 1, message(b"a")))
        late.output = late.answer_ping()
        assert kinds(late.output) == [PING]
    assert len(late.taken) == 100  # then the method had enough


def test_answers_to_pings_that_we_never_sent_are_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, told=False)
    burst = Limits().pings.burst
    output = late.bench.feed(frames.ping(b"end " + bytes(3) + b"\x03", ack=True) * (burst + 10))
    assert kinds(output)[-1] == GOAWAY


def test_the_windows_do_not_open_for_more_than_the_connection_may_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a client could fill the windows of streams whose handlers do not read, call after call."""
    late = Late(monkeypatch, told=False)
    streams = late.bench.connection.streams
    flow = streams.receive_flow
    late.bench.feed(opened(3, "/p/Late") + frame(DATA, 0, 3, message(bytes(15_000)) * 1))
    unread = flow.unread_bytes
    assert unread > 15_000
    late.bench.feed(opened(5, "/p/Late"))
    flow.window = 0
    flow.open_wide(streams.table[5])
    assert flow.window + unread == 100_000


async def test_a_client_whose_window_is_shut_loses_nothing(tmp_path: Path) -> None:
    """As Envoy: it holds a megabyte of entries, and discards them when it sees the end of the stream."""
    read: list[bytes] = []
    leave = asyncio.Event()

    async def handler(messages: AsyncIterator[bytes], _call: Call) -> bytes:
        read.append(await anext(messages))
        await leave.wait()
        return b""

    def take(body: bytes, _call: Call) -> bool:
        read.append(body)
        return True

    service = Service("p", {"Late": ClientStreaming(handler, after_reply=take)})
    server = make_server("native", (service,), (UnixAddress(str(tmp_path / "late.sock")),))
    await server.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "late.sock")
    client = RawClient(reader, writer)
    client.h2.initiate_connection()
    stream_id = client.open(request_headers("/p/Late"))
    bodies = [number.to_bytes(4, "big") * 2_500 for number in range(200)]
    bodies.append(bytes(600_000))
    held = b"".join(map(framed, bodies))

    def send_what_the_windows_allow() -> int:
        """How many bytes are held after it."""
        nonlocal held
        while held and not client.answers[stream_id].done:
            most = min(client.h2.local_flow_control_window(stream_id), client.h2.max_outbound_frame_size)
            if not most:
                break
            client.send(stream_id, held[:most])
            held = held[most:]
        return len(held)

    await client.until(lambda: client.settings_acks)
    everything = len(held)
    await client.until(lambda: everything - send_what_the_windows_allow() >= Limits().stream_window_bytes)
    leave.set()
    await client.until(lambda: not send_what_the_windows_allow() or client.answers[stream_id].done)
    assert (await client.answer(stream_id)).status == 0
    assert read == bodies
    writer.close()
    await within(server.drain(0))
