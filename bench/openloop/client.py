"""The client side of a protocol, without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ended:
    """A call got its reply. `tag` counts the calls of the connection from 0."""

    tag: int
    failure: str = ""
    """What went wrong, such as `HTTP 503`; empty if nothing did."""


class Client(Protocol):
    """One connection to a server."""

    streams: int
    """How many calls it carries at once."""
    exhausted: bool
    """Whether it can carry no more calls, so another one must replace it once the calls in flight end."""

    def opening(self) -> bytes:
        """Return what the client sends first."""
        ...

    def call(self, number: int) -> bytes:
        """Return the bytes of the next call; `number` chooses the request."""
        ...

    def feed(self, data: bytes) -> tuple[Sequence[Ended], bytes]:
        """Return the calls that ended with these bytes, and what must be sent back at once.

        Raises LoadError if the server violates the protocol.
        """
        ...

    def closed(self) -> Sequence[Ended]:
        """Return the calls that end because the server closed the connection."""
        ...
