"""What a connection hands its calls to: whoever runs the handlers."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from sidecars.transport.api.service import Status, UnaryHandler
from sidecars.transport.http2.call import ServerCall
from sidecars.transport.http2.stream import Stream

if TYPE_CHECKING:
    from sidecars.transport.http2.streams import Streams

Outcome = bytes | Status | Awaitable[bytes]
"""What a unary handler made of its request: the reply, a failure, or something to wait for."""


class CallHandler(Protocol):
    """Who runs the handlers."""

    def answer(self, handler: UnaryHandler, message: bytes, call: ServerCall) -> Outcome:
        """What the handler returned. Raises nothing."""

    def later(self, streams: "Streams", stream: Stream, reply: Awaitable[bytes]) -> None:
        """Wait for `reply`, then `streams.reply` or `streams.finish`."""

    def watch(self, streams: "Streams", stream: Stream) -> None:
        """End the call at its deadline, though its request has not come whole."""

    def begin(self, streams: "Streams", stream: Stream) -> None:
        """Start the handler of a streaming call; it reads with `streams.read`."""

    def wake(self, stream: Stream) -> None:
        """There is something to read, room to send, or nothing more to come."""

    def cancel(self, stream: Stream) -> None:
        """The caller has gone, or was answered; stop the handler."""
