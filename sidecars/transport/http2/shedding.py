"""Load shedding: refuses calls that have waited too long in this process, before their callers give up.

Under overload a queue would make every answer late, so that none is of use. A call is refused once it has
waited for a part of its timeout; what is left is time for those behind it, which are fresh. A refusal costs a
tenth of a call or less, so the queue is short again at once.

A burst is not an overload: until calls have been late for as long as their timeout, without a pause as long,
they may wait for twice the part. (CoDel, RFC 8289, tells a good queue from a standing one by time, too.)

What waits is input: the rest of a read whose turn was over, and what the kernel holds until then: the
socket is not read before that rest is done. So the age of the next read counts from the one before. A read
that fills its buffer leaves more in the kernel, which may be as old as what it took.
"""

from math import inf
from typing import Final

from sidecars.transport.api.service import Code, Status, Unary
from sidecars.transport.http2.responses import trailers_only
from sidecars.transport.http2.stream import ServerCall

FULL_READ_BYTES: Final = 250_000
"""A read this long fills the buffer (uvloop: 256,000 bytes; asyncio: 262,144)."""

RESUMED_SECONDS: Final = 0.005
"""A read so soon after the last of the input before it takes what has waited for it."""

URGENT_SHARES: Final = 2
"""Urgent calls may wait for so many times the share of others."""

BURST_SHARES: Final = 2
"""In a burst, calls may wait for so many times the share."""

OVERLOADED: Final = Status(Code.RESOURCE_EXHAUSTED, "overloaded: the call waited too long")
"""Clients do not retry it by default, as they do UNAVAILABLE: retries would feed an overload."""

_REFUSAL: Final = trailers_only(0, OVERLOADED)
_STREAM_ID: Final = slice(5, 9)
"""In the head of a frame (RFC 9113 section 4.1)."""


class Shedding:
    """How long the input of a connection has waited. `share` None: nothing is refused."""

    __slots__ = ("_behind", "_late_at", "_late_since", "_pending_at", "_share", "_started", "read_at")

    def __init__(self, share: float | None, now: float) -> None:
        self._share = share
        self._behind = False
        """Whether the kernel may hold more than the last read took."""
        self._started = now
        """When the current input was read."""
        self._pending_at = -inf
        """When some of it last waited for its turn."""
        self._late_since = self._late_at = -inf
        """When calls began to wait for longer than `share`, and when the last one did."""
        self.read_at = now
        """Since when the current input has waited, at the most."""

    def read(self, size: int, now: float, *, pending: bool) -> None:
        """A read of `size` bytes came; `pending`: some of the input before it still waits."""
        if pending:
            self._pending_at = now
            return
        if not self._behind:
            self.read_at = self._started if now - self._pending_at <= RESUMED_SECONDS else now
        self._behind = size >= FULL_READ_BYTES
        self._started = now

    def refuses(self, call: ServerCall, message: bytes, now: float) -> bool:
        """Return whether a call that is complete is refused; counts it."""
        method, timeout = call.request.method, call.request.timeout_seconds
        if self._share is None or timeout is None or not isinstance(method, Unary):
            return False
        waited, most = now - self.read_at, self._share * timeout
        if waited <= most:
            return False
        if now - self._late_at > timeout:
            self._late_since = now
        self._late_at = now
        if now - self._late_since < timeout:
            most *= BURST_SHARES
            if waited <= most:
                return False
        if waited <= URGENT_SHARES * most and method.urgent is not None and method.urgent(message):
            return False
        if method.shed is not None:
            method.shed()
        return True


def refusal(stream_id: int) -> bytes:
    """Return the whole reply to a call that is refused."""
    return b"%b%b%b" % (_REFUSAL[: _STREAM_ID.start], stream_id.to_bytes(4), _REFUSAL[_STREAM_ID.stop :])
