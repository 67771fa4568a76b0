"""The output of a connection: frames in order, DATA within the peer's windows (RFC 9113 section 5.2)."""

from collections import deque
from collections.abc import Iterable

from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError
from sidecars.transport.http2.frames import (
    DATA,
    DEFAULT_WINDOW_BYTES,
    END_STREAM,
    MAX_FRAME_BYTES,
    MAX_WINDOW_BYTES,
    ErrorCode,
    head,
)
from sidecars.transport.http2.messages import PREFIX, PREFIX_BYTES
from sidecars.transport.http2.responses import response_headers, unary_reply
from sidecars.transport.http2.stream import Stream

Chunk = bytes | memoryview


class SendQueue:
    """Frames until they are taken, and messages until the peer's windows allow their frames."""

    __slots__ = (
        "_frames",
        "_ready",
        "bytes_this_turn",
        "data_frames",
        "initial_window",
        "unsent_bytes",
        "window",
    )

    def __init__(self) -> None:
        self._frames: list[Chunk] = []
        self._ready: dict[int, Stream] = {}
        """Streams whose own window is open and that wait for the connection's, first come first served."""
        self.window = DEFAULT_WINDOW_BYTES
        """How many bytes may still be sent on the connection."""
        self.initial_window = DEFAULT_WINDOW_BYTES
        self.bytes_this_turn = 0
        """What was made since the last `take`: DATA that is ready, what was inflated to make it, handlers."""
        self.unsent_bytes = 0
        self.data_frames = 0
        """DATA frames that were sent, other than those of whole replies: there is one a stream of these."""

    def take(self) -> bytes:
        """All that is ready to leave, once."""
        self.bytes_this_turn = 0
        frames = self._frames
        if not frames:
            return b""
        taken = b"".join(frames)
        frames.clear()
        return taken

    def put(self, frame: bytes) -> None:
        """Add a frame that is not subject to flow control, which is any frame but DATA."""
        self._frames.append(frame)

    def reply(self, stream_id: int, message: bytes) -> bool:
        """Send the complete reply of a stream that has sent nothing; False if a window has no room."""
        size = len(message) + PREFIX_BYTES
        if size > self.window or size > self.initial_window or size > MAX_FRAME_BYTES:
            return False
        self.window -= size
        self.bytes_this_turn += size
        self._frames += unary_reply(stream_id, message)
        return True

    def send(self, stream: Stream, message: bytes) -> None:
        """Send one message of a reply, now or as the windows open."""
        if not stream.headers_sent:
            stream.headers_sent = True
            self._frames.append(response_headers(stream.id))
        prefix = PREFIX.pack(0, len(message))
        # One frame for a small message; a large one is cut without being copied.
        if len(message) < MAX_FRAME_BYTES:
            self._queue(stream, prefix + message)
        else:
            self._queue(stream, prefix)
            self._queue(stream, memoryview(message))
        self.push(stream)

    def send_text(self, stream: Stream, headers: bytes, text: bytes) -> None:
        """Send a complete reply that is not gRPC."""
        self._frames.append(headers)
        stream.headers_sent = True
        self._queue(stream, text)
        self.finish(stream, head(DATA, END_STREAM, stream.id, 0))

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """End the stream with `trailers` when all of its messages have left."""
        stream.local_closed = True
        stream.trailers = trailers
        self.push(stream)

    def push(self, stream: Stream) -> None:
        """Send what the windows allow of one stream."""
        while stream.unsent and self._one_frame(stream):
            pass
        self._settle(stream)

    def drop(self, stream: Stream) -> None:
        """Discard what a closed stream had to send."""
        self._ready.pop(stream.id, None)
        if stream.unsent:
            self.unsent_bytes -= sum(map(len, stream.unsent))
        stream.unsent = None
        stream.trailers = None

    def initial_window_changed(self, streams: Iterable[Stream], last: int, largest: int) -> None:
        """Change the window of each of `streams` (RFC 9113 section 6.9.2). Sends nothing.

        One SETTINGS frame may repeat the parameter. The `last` value counts, because nothing happens between
        two of them, but the `largest` must not overflow a window either. Raises GoAwayError if it does.
        """
        before, self.initial_window = self.initial_window, last
        for stream in streams:
            if stream.send_window + largest - before > MAX_WINDOW_BYTES:
                raise GoAwayError(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    Reason.WINDOW_OVERFLOW,
                    "SETTINGS overflow a stream's window",
                )
            stream.send_window += last - before

    @staticmethod
    def stream_opened(stream: Stream, increment: int) -> None:
        """Add `increment` to the window of `stream`. Raises StreamResetError above 2^31-1."""
        if increment > MAX_WINDOW_BYTES - stream.send_window:
            raise StreamResetError(
                stream.id,
                ErrorCode.FLOW_CONTROL_ERROR,
                Reason.WINDOW_OVERFLOW,
                "the stream's window overflows",
            )
        stream.send_window += increment

    def opened(self, increment: int) -> list[Stream]:
        """The connection's window grew: send what waits, a frame a stream in turn. Returns who sent any.

        Raises GoAwayError when it grows past 2^31-1.
        """
        if increment > MAX_WINDOW_BYTES - self.window:
            raise GoAwayError(
                ErrorCode.FLOW_CONTROL_ERROR, Reason.WINDOW_OVERFLOW, "the connection's window overflows"
            )
        self.window += increment
        served: dict[int, Stream] = {}
        while self._ready and self.window > 0:
            stream_id, stream = next(iter(self._ready.items()))
            del self._ready[stream_id]
            self._one_frame(stream)
            self._settle(stream)
            served[stream_id] = stream
        return list(served.values())

    def _queue(self, stream: Stream, chunk: Chunk) -> None:
        if stream.unsent is None:
            stream.unsent = deque()
        stream.unsent.append(chunk)
        self.unsent_bytes += len(chunk)

    def _one_frame(self, stream: Stream) -> bool:
        unsent = stream.unsent
        if not unsent:
            return False
        room = min(self.window, stream.send_window, MAX_FRAME_BYTES)
        if room <= 0:
            return False
        chunks: list[Chunk] = []
        size = 0
        while unsent and size < room:
            chunk = unsent.popleft()
            if len(chunk) > room - size:
                whole = memoryview(chunk)
                unsent.appendleft(whole[room - size :])
                chunk = whole[: room - size]
            chunks.append(chunk)
            size += len(chunk)
        self.window -= size
        self.bytes_this_turn += size
        stream.send_window -= size
        self.unsent_bytes -= size
        stream.stalled_since = None
        self.data_frames += 1
        self._frames.append(head(DATA, 0, stream.id, size))
        self._frames += chunks
        return True

    def _settle(self, stream: Stream) -> None:
        """Add the trailers after the last message, or queue a stream that has more to send."""
        if stream.unsent:
            if stream.send_window > 0:
                self._ready[stream.id] = stream
        elif stream.trailers is not None:
            self._frames.append(stream.trailers)
            stream.trailers = None
