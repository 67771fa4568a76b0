"""Frames that are cheap to send and cost us something: so many, and no more."""

from operator import attrgetter

from sidecars.transport.errors import GoAwayError, Reason
from sidecars.transport.frames import ErrorCode
from sidecars.transport.limits import Limits

_RATES = {
    Reason.RAPID_RESET: attrgetter("resets"),
    Reason.PING_FLOOD: attrgetter("pings"),
    Reason.SETTINGS_FLOOD: attrgetter("settings"),
    Reason.EMPTY_FRAME_FLOOD: attrgetter("empty_frames"),
    Reason.IDLE_FRAME_FLOOD: attrgetter("idle_frames"),
    Reason.WINDOW_UPDATE_FLOOD: attrgetter("window_updates"),
    Reason.INFLATION_FLOOD: attrgetter("inflated_bytes"),
}


class Floods:
    """A leaking bucket a kind of frame, made when the first one comes."""

    __slots__ = ("_levels", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._levels: dict[Reason, tuple[float, float]] | None = None

    def count(self, reason: Reason, now: float, *, amount: int = 1, earned: int = 0) -> None:
        """Count a frame, or its bytes. Raises GoAwayError (ENHANCE_YOUR_CALM) when the bucket runs over.

        `earned` is added to the burst: what a peer may send for what it was sent.
        """
        rate = _RATES[reason](self._limits)
        if self._levels is None:
            self._levels = {}
        level, at = self._levels.get(reason, (0.0, now))
        level = max(0.0, level - (now - at) * rate.per_second) + amount
        self._levels[reason] = (level, now)
        if level > rate.burst + earned:
            raise GoAwayError(
                ErrorCode.ENHANCE_YOUR_CALM,
                reason,
                f"{reason}: more than {rate.burst} at once, {rate.per_second:g}/s after",
            )
