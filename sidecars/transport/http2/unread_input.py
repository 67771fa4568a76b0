"""The input of a connection that is not processed yet, and the preface that it begins with."""

from sidecars.transport.http2.errors import GoAwayError, Reason
from sidecars.transport.http2.frames import PREFACE, ErrorCode


class UnreadInput:
    """An incomplete frame, or the rest of a read whose turn is over."""

    __slots__ = ("_start", "began", "data")

    def __init__(self, now: float) -> None:
        self.data = b""
        """The bytes, after some that are processed; empty if there is none."""
        self.began = now
        """When the incomplete frame began."""
        self._start = 0

    def joined(self, more: bytes) -> tuple[bytes, int]:
        """All bytes with those of one more read, and where the unread ones begin."""
        if not more:
            return self.data, self._start
        return self.data[self._start :] + more, 0

    def keep(self, data: bytes, start: int) -> None:
        """Keep `data` from `start` on, without a copy: a long read is left in the middle many times."""
        self.data, self._start = data, start


def preface_bytes(data: bytes) -> int:
    """The length of the preface (RFC 9113 section 3.4) at the start of `data`; 0 if it is incomplete.

    Raises GoAwayError for anything else.
    """
    if data[: len(PREFACE)] != PREFACE[: len(data)]:
        raise GoAwayError(
            ErrorCode.PROTOCOL_ERROR,
            Reason.BAD_PREFACE,
            "expected the preface of HTTP/2, prior knowledge",
        )
    return len(PREFACE) if len(data) >= len(PREFACE) else 0
