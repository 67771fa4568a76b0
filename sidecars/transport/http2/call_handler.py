"""The seam between the streams of a connection and whatever runs their handlers."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from sidecars.transport.api.service import Status, UnaryHandler
from sidecars.transport.http2.stream import ServerCall, Stream

if TYPE_CHECKING:  # each refers to the other
    from sidecars.transport.http2.streams import Streams

Outcome = bytes | Status | Awaitable[bytes]
"""What a unary handler returns: the reply, a failure, or an awaitable of the reply."""


class CallHandler(Protocol):
    """Runs the handlers of the calls of a connection."""

    def answer(self, handler: UnaryHandler, message: bytes, call: ServerCall) -> Outcome:
        """Call a unary handler; what it returned. Raises nothing."""

    def await_reply(self, streams: "Streams", stream: Stream, reply: Awaitable[bytes]) -> None:
        """Wait for `reply`, then call `streams.reply` or `streams.finish`."""

    def watch(self, streams: "Streams", stream: Stream) -> None:
        """End the call at its deadline, even if its request is still incomplete."""

    def has_room(self, streams: "Streams") -> bool:
        """Whether the handler of one more streaming call may start."""

    def start_stream(self, streams: "Streams", stream: Stream) -> None:
        """Start the handler of a streaming call, which reads with `streams.read`."""

    def start_now(self, streams: "Streams", stream: Stream) -> None:
        """Start the handler if it still waits for the first message of its request."""

    def resume(self, streams: "Streams", stream: Stream) -> None:
        """Let the handler check again: something to read, room to send, or the end of the request."""

    def cancel(self, streams: "Streams", stream: Stream) -> None:
        """Stop the handler: its caller has gone, or was answered."""
