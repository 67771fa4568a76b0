"""Bounds frames that are cheap to send and cost the server something."""

from operator import attrgetter
from typing import Final

from sidecars.transport.api.limits import Limits
from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.send_queue import SendQueue
from sidecars.transport.http2.stream_table import StreamTable

_RATES: Final = {
    Reason.RAPID_RESET: attrgetter("resets"),
    Reason.PING_FLOOD: attrgetter("pings"),
    Reason.SETTINGS_FLOOD: attrgetter("settings"),
    Reason.EMPTY_FRAME_FLOOD: attrgetter("empty_frames"),
    Reason.IDLE_FRAME_FLOOD: attrgetter("idle_frames"),
    Reason.WINDOW_UPDATE_FLOOD: attrgetter("window_updates"),
    Reason.INFLATION_FLOOD: attrgetter("inflated_bytes"),
}

_WINDOW_UPDATES_PER_DATA: Final = 2
"""A client opens the window of the stream and that of the connection again for what it was sent."""

_LATE_FRAMES_PER_STREAM: Final = 5
"""Frames that honest clients send on a stream that is gone: RST_STREAM that crosses our answer, the DATA
queued after it, and (Netty, the h2 crate) RST_STREAM again for each of the three frames of that answer."""


class FloodGuard:
    """One leaking bucket for each kind of frame, made when the first one comes.

    Honest work earns a peer some frames of a kind: what it earned since the last frame empties the bucket. It
    may save as much as the streams earn that it may have open at once, and no more.
    """

    __slots__ = ("_buckets", "_limits", "_send_queue", "_stream_table", "_trusted")

    def __init__(
        self, limits: Limits, stream_table: StreamTable, send_queue: SendQueue, *, trusted: bool
    ) -> None:
        self._limits = limits
        self._stream_table = stream_table
        self._send_queue = send_queue
        self._trusted = trusted
        """Whether the peer may reset as often as it likes: an Envoy does so on behalf of its own clients."""
        self._buckets: dict[Reason, tuple[float, float, int]] | None = None
        """The level of each bucket, when that was, and what the peer had earned by then."""

    def count(self, reason: Reason, now: float, amount: int = 1) -> None:
        """Count a frame, or its bytes. Raises GoAwayError (ENHANCE_YOUR_CALM) when the bucket runs over."""
        if self._trusted and reason is Reason.RAPID_RESET:
            return
        rate = _RATES[reason](self._limits)
        if self._buckets is None:
            self._buckets = {}
        earned, most_saved = self._earned(reason)
        level, at, before = self._buckets.get(reason, (0.0, now, 0))
        if level > 0:
            level = max(0.0, level - (now - at) * rate.per_second)
        level = max(-most_saved, level - (earned - before)) + amount
        self._buckets[reason] = (level, now, earned)
        if level > rate.burst:
            raise GoAwayError(
                ErrorCode.ENHANCE_YOUR_CALM,
                reason,
                f"{reason}: more than {rate.burst} at once, {rate.per_second:g}/s after",
            )

    def _earned(self, reason: Reason) -> tuple[int, int]:
        """How many such frames the peer has earned since its connection began, and how many it may save."""
        stream_table, sent = self._stream_table, self._send_queue.data_frames
        match reason:
            case Reason.RAPID_RESET:
                each, earned = 1, stream_table.finished
            case Reason.PING_FLOOD:
                each, earned = 1, stream_table.opened + sent
            case Reason.IDLE_FRAME_FLOOD:
                each, earned = _LATE_FRAMES_PER_STREAM, _LATE_FRAMES_PER_STREAM * stream_table.opened
            case Reason.WINDOW_UPDATE_FLOOD:
                each = self._limits.window_updates_per_stream
                earned = each * stream_table.opened + _WINDOW_UPDATES_PER_DATA * sent
            case _:
                return 0, 0
        return earned, each * self._limits.max_concurrent_streams
