"""Finds streams that have exceeded a time limit."""

from collections.abc import Iterator

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Bidirectional, ClientStreaming
from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.stream import Stream
from sidecars.transport.http2.streams import Streams


def overdue(streams: Streams, limits: Limits, now: float) -> Iterator[StreamResetError]:
    """A reset for each stream that has exceeded a time limit.

    Raises GoAwayError for a peer whose connection window stays shut: no stream can go on.
    """
    for stream in list(streams.table.values()):
        if stream.unsent:
            if stream.stalled_since is None:
                stream.stalled_since = now
            elif now - stream.stalled_since > limits.write_stall_timeout_seconds:
                if streams.send_queue.window <= 0:
                    raise GoAwayError(
                        ErrorCode.ENHANCE_YOUR_CALM, Reason.STALLED, "the connection's window stays shut"
                    )
                yield StreamResetError(stream.id, ErrorCode.CANCEL, Reason.STALLED, "the window stays shut")
        elif stream.remote_closed:
            continue
        elif stream.local_closed:
            if now - stream.message_began > limits.lingering_timeout_seconds:
                yield StreamResetError(
                    stream.id, ErrorCode.NO_ERROR, Reason.SLOW_MESSAGE, "answered long ago, and not ended"
                )
        elif _within_message(stream) and now - stream.message_began > limits.message_timeout_seconds:
            yield StreamResetError(
                stream.id, ErrorCode.CANCEL, Reason.SLOW_MESSAGE, "a message that does not end"
            )


def suspend(streams: Streams, now: float) -> None:
    """Restart the time limits of all streams: while the socket is full we do not read, so the peer ends none.

    `write_stall_timeout_seconds` limits how long that may be.
    """
    for stream in streams.table.values():
        stream.message_began = now


def _within_message(stream: Stream) -> bool:
    """Whether the peer owes the rest of a message; a stream of messages may rest between two."""
    if stream.assembler is not None and stream.assembler.held_bytes:
        return True
    return not isinstance(stream.request.method, ClientStreaming | Bidirectional)
