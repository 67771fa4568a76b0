"""Frames that carry no call, and how a connection begins, stays alive and ends."""

from typing import Final

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.http2 import frames
from sidecars.transport.http2.errors import (
    GoAwayError,
    Reason,
    StreamResetError,
    frame_size_error,
    protocol_error,
)
from sidecars.transport.http2.frames import MAX_FRAME_BYTES, R_BIT, ErrorCode, Setting
from sidecars.transport.http2.header_decoder import ANNOUNCED_TABLE_BYTES, HeaderDecoder
from sidecars.transport.http2.late_messages import end_overdue, ping_answered
from sidecars.transport.http2.stream import Stream
from sidecars.transport.http2.streams import Streams

DRAIN_PING_SECONDS: Final = 1.0
"""Time for the PING after the first GOAWAY to come back; a slower peer may lose calls it begins later."""

SHORTEST_PATIENCE_SECONDS: Final = 0.001
"""A call that is reset sooner counts as a rapid reset, regardless of its deadline."""

_DRAIN_PING: Final = b"draining"
_KEEPALIVE_PING: Final = b"there?  "


class Control:
    """The state of a connection apart from its streams: SETTINGS, keepalive and drain."""

    __slots__ = (
        "_blocks",
        "_limits",
        "_opened",
        "_ours_since",
        "_pinged",
        "_streams",
        "drain_began",
        "final_id",
        "last_received_at",
        "settings_received",
    )

    def __init__(self, streams: Streams, blocks: HeaderDecoder, limits: Limits, now: float) -> None:
        self._streams = streams
        self._blocks = blocks
        self._limits = limits
        self._opened = now
        self._ours_since: float | None = now
        """When our SETTINGS left; None once they are acknowledged."""
        self._pinged: float | None = None
        self.settings_received = False
        """Whether the peer's SETTINGS came."""
        self.last_received_at = now
        """When the peer last sent anything."""
        self.drain_began: float | None = None
        self.final_id: int | None = None
        """The last stream that is served, once the second GOAWAY has named it."""

    @property
    def serving(self) -> bool:
        """Whether new calls are taken."""
        return self.settings_received and self.final_id is None

    def greet(self) -> None:
        """Our SETTINGS, and a window for the connection that is wider than the default."""
        send_queue, limits = self._streams.send_queue, self._limits
        send_queue.put(
            frames.settings(
                {
                    Setting.HEADER_TABLE_SIZE: ANNOUNCED_TABLE_BYTES,
                    Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
        )
        wider = self._streams.receive_flow.top_up()
        if wider:
            send_queue.put(wider)

    def end(self) -> None:
        """Send the second GOAWAY: streams up to now are served, later ones are not begun."""
        if self.final_id is None:
            self.final_id = self._streams.stream_table.last_id
            self._streams.observer.goaway_sent(ErrorCode.NO_ERROR)
            self._streams.send_queue.put(frames.goaway(self.final_id, ErrorCode.NO_ERROR, "draining"))

    def drain(self, now: float) -> None:
        """Say that no new streams are wanted.

        The first GOAWAY names no stream, as some may be on their way (RFC 9113 section 6.8). The PING after
        it comes back after them.
        """
        if self.drain_began is not None:
            return
        self.drain_began = now
        if self.settings_received:
            send_queue = self._streams.send_queue
            send_queue.put(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, "draining"))
            send_queue.put(frames.ping(_DRAIN_PING))
        else:
            self.end()

    # -- frames --------------------------------------------------------------------------------------------

    def priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """PRIORITY came; it is deprecated, so it is checked and ignored (RFC 9113 section 5.3.2)."""
        self._count(Reason.IDLE_FRAME_FLOOD)
        if not stream_id:
            raise protocol_error(Reason.STREAM_ID, "PRIORITY on stream 0")
        if len(payload) != 5:
            code, reason, detail = ErrorCode.FRAME_SIZE_ERROR, Reason.FRAME_SIZE, "PRIORITY has 5 bytes"
        elif frames.parse_uint32(payload[:4]) & ~R_BIT == stream_id:
            code, reason = ErrorCode.PROTOCOL_ERROR, Reason.SELF_DEPENDENCY
            detail = "a stream that depends on itself"
        else:
            return
        if stream_id in self._streams.table:
            raise StreamResetError(stream_id, code, reason, detail)
        # RST_STREAM is not for idle streams (RFC 9113 section 6.4), so the connection pays.
        raise GoAwayError(code, reason, detail)

    def rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """RST_STREAM came: the caller has gone (RFC 9113 section 6.4)."""
        if len(payload) != 4:
            raise frame_size_error("RST_STREAM has 4 bytes")
        self._streams.observer.reset_received()
        self._streams.stream_table.cancels = True
        stream = self._streams.table.get(stream_id)
        if stream is None:  # mostly our answer and the caller's patience have crossed
            self.check_gone(stream_id, "RST_STREAM")
            return
        if not stream.local_closed and not _was_patient(stream, self._streams.now):
            self._count(Reason.RAPID_RESET)
        self._streams.reset_by_peer(stream)

    def settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """SETTINGS came, or their acknowledgement (RFC 9113 section 6.5)."""
        if stream_id:
            raise protocol_error(Reason.STREAM_ID, "SETTINGS on a stream")
        self._count(Reason.SETTINGS_FLOOD)
        if flags & frames.ACK:
            if payload:
                raise frame_size_error("an acknowledgement of SETTINGS is empty")
            if self._ours_since is not None:
                self._ours_since = None
                self._blocks.settings_acknowledged()
                self._streams.our_settings_known()
            return
        if len(payload) % 6:
            raise frame_size_error("SETTINGS have 6 bytes each")
        too_many = len(payload) // 6 - self._limits.settings_parameters
        if too_many > 0:
            self._count(Reason.SETTINGS_FLOOD, too_many)
        # First: a wider window counts from the acknowledgement on, and may let DATA leave.
        self._streams.send_queue.put(frames.SETTINGS_ACK)
        windows = []
        for setting, value in frames.parse_settings(payload):
            self._check_setting(setting, value)
            if setting == Setting.INITIAL_WINDOW_SIZE:
                windows.append(value)
        if windows:
            self._streams.initial_window_changed(windows[-1], max(windows))
        self.settings_received = True

    @staticmethod
    def _check_setting(setting: int, value: int) -> None:
        """One parameter (RFC 9113 section 6.5.2).

        Those that bind only what we never do are only checked: we use no dynamic table, push nothing, and
        send no frame above the smallest maximum there is.
        """
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW_BYTES:
                raise GoAwayError(
                    ErrorCode.FLOW_CONTROL_ERROR, Reason.SETTINGS_VALUE, "INITIAL_WINDOW_SIZE above 2^31-1"
                )
        elif setting == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value < 2**24:
                raise protocol_error(Reason.SETTINGS_VALUE, "MAX_FRAME_SIZE outside 2^14 to 2^24-1")
        elif setting == Setting.ENABLE_PUSH and value > 1:
            raise protocol_error(Reason.SETTINGS_VALUE, "ENABLE_PUSH is 0 or 1")

    def push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """PUSH_PROMISE came, which no client may send (RFC 9113 section 8.4)."""
        raise protocol_error(Reason.FRAME_ORDER, "PUSH_PROMISE from a client")

    def ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """PING came; it is answered at once. The answer to our own may end a drain (RFC 9113 section 6.7)."""
        if stream_id:
            raise protocol_error(Reason.STREAM_ID, "PING on a stream")
        if len(payload) != 8:
            raise frame_size_error("PING has 8 bytes")
        if flags & frames.ACK and ping_answered(self._streams, payload):
            return  # not counted: as many come back as calls end, several times for each
        self._count(Reason.PING_FLOOD)
        if not flags & frames.ACK:
            self._streams.send_queue.put(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING and self.drain_began is not None:
            self.end()

    def goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The client opens no more streams; the open ones go on (RFC 9113 section 6.8)."""
        if stream_id:
            raise protocol_error(Reason.STREAM_ID, "GOAWAY on a stream")
        if len(payload) < 8:
            raise frame_size_error("GOAWAY has at least 8 bytes")
        self._count(Reason.IDLE_FRAME_FLOOD)

    def window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """WINDOW_UPDATE came, for one stream or the connection (RFC 9113 section 6.9)."""
        if len(payload) != 4:
            raise frame_size_error("WINDOW_UPDATE has 4 bytes")
        self._count(Reason.WINDOW_UPDATE_FLOOD)
        increment = frames.parse_uint32(payload) & ~R_BIT
        stream = self._streams.table.get(stream_id) if stream_id else None
        if stream is None and stream_id:
            self._is_closed(stream_id, "WINDOW_UPDATE")  # late ones are expected (RFC 9113 section 5.1)
            return
        if not increment:
            detail = "WINDOW_UPDATE by nothing"
            if stream is None:
                raise protocol_error(Reason.ZERO_INCREMENT, detail)
            raise StreamResetError(stream_id, ErrorCode.PROTOCOL_ERROR, Reason.ZERO_INCREMENT, detail)
        self._streams.window_opened(stream, increment)

    def unknown(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """A frame of an unknown type came; it is ignored (RFC 9113 section 5.5)."""
        self._count(Reason.IDLE_FRAME_FLOOD)

    def check_gone(self, stream_id: int, what: str) -> bool:
        """Whether a frame for a stream that is not in the table is a mistake on a stream that is closed.

        False: the peer cannot know yet that it is gone. Raises GoAwayError when it was never opened.
        """
        self._count(Reason.IDLE_FRAME_FLOOD)
        return self._is_closed(stream_id, what)

    def _is_closed(self, stream_id: int, what: str) -> bool:
        """As `check_gone`, for a frame that has been counted already."""
        if self.final_id is not None and stream_id > self.final_id:
            return False
        stream_table = self._streams.stream_table
        if stream_id > stream_table.last_id or not stream_id & 1:
            raise protocol_error(Reason.STREAM_ID, f"{what} on stream {stream_id}, which is idle")
        return not stream_table.was_reset(stream_id)

    # -- time ----------------------------------------------------------------------------------------------

    def check_times(self, now: float, lifetime: Lifetime) -> None:
        """Raises GoAwayError for a peer that keeps us waiting too long; pings one that is silent."""
        limits = self._limits
        if self.drain_began is not None and now - self.drain_began > DRAIN_PING_SECONDS:
            self.end()
        end_overdue(self._streams, now)
        if not self.settings_received and now - self._opened > limits.preface_timeout_seconds:
            raise protocol_error(Reason.SLOW_START, "no preface and SETTINGS in time")
        if self._ours_since is not None and now - self._ours_since > limits.settings_ack_seconds:
            raise GoAwayError(
                ErrorCode.SETTINGS_TIMEOUT, Reason.SETTINGS_TIMEOUT, "our SETTINGS were not acknowledged"
            )
        if self._pinged is not None and self.last_received_at > self._pinged:
            self._pinged = None
        if self._pinged is not None:
            if now - self._pinged > lifetime.keepalive_timeout_seconds:
                raise GoAwayError(
                    ErrorCode.NO_ERROR, Reason.KEEPALIVE_TIMEOUT, "no answer to a keepalive PING"
                )
        elif (
            lifetime.keepalive_seconds is not None
            and now - self.last_received_at >= lifetime.keepalive_seconds
        ):
            self._pinged = now
            self._streams.send_queue.put(frames.ping(_KEEPALIVE_PING))

    def _count(self, reason: Reason, amount: int = 1) -> None:
        self._streams.flood_guard.count(reason, self._streams.now, amount)


def _was_patient(stream: Stream, now: float) -> bool:
    """Whether the caller waited for about the deadline that it had set; our own timer expires then, too."""
    timeout = stream.request.timeout_seconds
    return timeout is not None and now - stream.call.arrived >= max(timeout / 2, SHORTEST_PATIENCE_SECONDS)


CONTROL_FRAMES: Final = {
    frames.PRIORITY: Control.priority,
    frames.RST_STREAM: Control.rst_stream,
    frames.SETTINGS: Control.settings,
    frames.PUSH_PROMISE: Control.push_promise,
    frames.PING: Control.ping,
    frames.GOAWAY: Control.goaway,
    frames.WINDOW_UPDATE: Control.window_update,
}
