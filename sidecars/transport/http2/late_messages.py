"""The end of a call whose method reads on: its client first sends what shut windows have held back.

A client discards what it could not send as soon as it sees the end of the call. So the windows are opened
before, and PINGs tell when the client has nothing left: it answers the first as soon as it can send, so the
call ends with a later one that comes back with no DATA before it (RFC 9113 section 6.7).
"""

from typing import Final

from sidecars.transport.api.service import Status
from sidecars.transport.http2 import frames
from sidecars.transport.http2.stream import Ending, Stream
from sidecars.transport.http2.streams import Streams

FLUSH_SECONDS: Final = 1.0
"""A client that still sends after this time loses what it holds then."""

_FLUSH_PING: Final = b"end "
"""The first half of a PING payload; the other half is the stream."""


def end_call(streams: Streams, stream: Stream, outcome: bytes | Status, now: float) -> None:
    """End a call with the reply or status of its handler, once its client has sent what it holds."""
    streams.put(streams.receive_flow.take_late(stream))
    ending = Ending(stream, outcome, now + FLUSH_SECONDS)
    if not stream.reads_on or stream.remote_closed or stream.local_closed:
        _end(streams, ending)
        return
    streams.ending[stream.id] = ending
    streams.put(streams.receive_flow.open_wide(stream))
    streams.put(_ping(stream))
    streams.output_ready()


def ping_answered(streams: Streams, payload: bytes) -> bool:
    """Go on with the call whose PING came back; False for any other PING, which is ignored.

    A client cannot flood us with them: each ends its call, unless DATA came since the one before.
    """
    ending = streams.ending.get(frames.parse_uint32(payload[4:])) if streams.ending else None
    if ending is None or not payload.startswith(_FLUSH_PING):
        return False
    stream = ending.stream
    rests = stream.received_bytes == ending.received_bytes
    if rests or stream.closed or streams.now > ending.give_up_at:
        _end(streams, ending)
    else:
        ending.received_bytes = stream.received_bytes
        streams.put(_ping(stream))
    return True


def end_overdue(streams: Streams, now: float) -> None:
    """End the calls whose clients do not answer a PING in time."""
    if streams.ending:
        for ending in [ending for ending in streams.ending.values() if now > ending.give_up_at]:
            _end(streams, ending)


def _ping(stream: Stream) -> bytes:
    return frames.ping(_FLUSH_PING + stream.id.to_bytes(4, "big"))


def _end(streams: Streams, ending: Ending) -> None:
    streams.ending.pop(ending.stream.id, None)
    if isinstance(ending.outcome, bytes):
        streams.reply(ending.stream, ending.outcome)
    else:
        streams.finish(ending.stream, ending.outcome)
