"""Messages that a client sends before it knows that the handler has ended its call."""

import gzip

import pytest

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Call, ClientStreaming, Code, Status
from sidecars.transport.http2.frames import DATA, END_STREAM, RST_STREAM, ErrorCode
from tests.support.transport.wire import CANCEL, METHODS, Bench, frame, join, message, opened, resets
from tests.support.transport.wire import settings_received as begun

LEAVING = Status(Code.UNAVAILABLE, "leaving")


class Late:
    """A bench with one call that its handler has ended, and what came on it later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int = 100, unread: bytes = b"") -> None:
        self.taken: list[bytes] = []
        self._most = most
        monkeypatch.setitem(METHODS, b"/p/Late", ClientStreaming(join, after_reply=self._take))
        self.bench: Bench = begun(Limits(stream_window_bytes=100_000))
        self.bench.feed(opened(1, "/p/Late"))
        self.bench.feed(frame(DATA, 0, 1, message(b"first")))
        self.bench.calls.run()
        self.bench.feed(frame(DATA, 0, 1, unread))
        streams = self.bench.connection.streams
        stream = streams.table[1]
        self.bench.calls._leave(stream)
        streams.read_on(stream)
        streams.finish(stream, LEAVING)
        self.bench.connection.take()

    def _take(self, body: bytes, _call: Call) -> bool:
        self.taken.append(body)
        return len(self.taken) < self._most


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
