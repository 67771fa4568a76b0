"""Runs the handlers: in place where they answer at once, as a task where they must wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sidecars.transport.api.failure import status_of
from sidecars.transport.api.service import (
    Bidirectional,
    ClientStreaming,
    Code,
    ServerStreaming,
    Status,
    Unary,
    UnaryHandler,
)
from sidecars.transport.http2 import late_messages
from sidecars.transport.http2.call_handler import Outcome
from sidecars.transport.http2.stream import ServerCall, Stream
from sidecars.transport.http2.streams import Streams
from sidecars.transport.server.admission import Admission
from sidecars.transport.server.scheduler import FairScheduler

_OK: Final = Status(Code.OK)
_EXPIRED: Final = Status(Code.DEADLINE_EXCEEDED, "deadline exceeded")
_CANCELLED: Final = Status(Code.CANCELLED, "the handler was cancelled")


class _Running:
    """A handler that has not finished: its task, its deadline, and what it waits for."""

    __slots__ = ("future", "readable", "resuming", "timer", "unstarted", "woken", "writable")

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.readable: asyncio.Future[None] | None = None
        self.writable: asyncio.Future[None] | None = None
        self.resuming = False
        """Whether the scheduler holds a call of `resume`."""
        self.unstarted = False
        """Whether the handler starts with the first message of its request."""
        self.woken = True
        """Whether its turn has come and it has not used it."""

    def resume(self) -> None:
        """Let a waiting handler check again."""
        self.resuming = False
        self.woken = True
        for waiter in (self.readable, self.writable):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


class Dispatcher:
    """The handlers' side of every connection of a server; a `CallHandler`.

    A peer may start, resume or cancel thousands of handlers at once, so each of these goes through the
    scheduler.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        scheduler: FairScheduler,
        admission: Admission,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._scheduler = scheduler
        self._admission = admission

    # -- what connections ask for --------------------------------------------------------------------------

    def answer(self, handler: UnaryHandler, message: bytes, call: ServerCall) -> Outcome:
        """What the handler returned, or the status for its exception."""
        try:
            return handler(message, call)
        except Exception as error:
            return status_of(error, call)
        except asyncio.CancelledError:
            return _CANCELLED

    def await_reply(self, streams: Streams, stream: Stream, reply: Awaitable[bytes]) -> None:
        """Wait for the reply of a call, until its deadline."""
        try:
            future = asyncio.ensure_future(reply, loop=self._loop)
        except TypeError as error:
            streams.finish(stream, status_of(error, stream.call))
            return
        self._watch(streams, stream, future)
        future.add_done_callback(lambda done: self._replied(streams, stream, done))

    def watch(self, streams: Streams, stream: Stream) -> None:
        """End the call at its deadline, though its request has not come whole."""
        stream.running = _Running()
        self._set_timer(streams, stream, stream.running)

    def has_room(self, streams: Streams) -> bool:
        """Whether the handler of one more streaming call may start on this connection."""
        return self._admission.has_room(streams)

    def start_stream(self, streams: Streams, stream: Stream) -> None:
        """Start the handler of a streaming call, in its turn.

        One that waits for messages starts with the first: until then, a stream costs a fraction of that.
        """
        running: _Running = stream.running or _Running()
        stream.running = running
        self._admission.started(streams)
        method = stream.request.method
        if isinstance(method, ClientStreaming) and method.waits_for_message:
            running.unstarted = True
            self._set_timer(streams, stream, running)
        else:
            self._scheduler.run(streams, partial(self._start, streams, stream, running))

    def start_now(self, streams: Streams, stream: Stream) -> None:
        """Start the handler, in its turn, if it still waits for the first message."""
        running: _Running | None = stream.running
        if running is not None and running.unstarted:
            running.unstarted = False
            self._scheduler.run(streams, partial(self._start, streams, stream, running))

    def resume(self, streams: Streams, stream: Stream) -> None:
        """Let a waiting handler check again, in its turn."""
        running: _Running | None = stream.running
        if running is None or running.resuming:
            return
        if running.unstarted:
            if stream.remote_closed or (stream.assembler is not None and stream.assembler.whole_messages):
                self.start_now(streams, stream)
            return
        for waiter in (running.readable, running.writable):
            if waiter is not None and not waiter.done():
                running.resuming = True
                self._scheduler.run(streams, running.resume)
                return

    def cancel(self, streams: Streams, stream: Stream) -> None:
        """Stop the handler, whose reply is no longer needed: that of a streaming call in its turn.

        A unary one is stopped at once. `Admission` does not bound them, so a peer that connects again and
        again could start them faster than those in the queue are cancelled.
        """
        running: _Running | None = stream.running
        if running is not None and running.unstarted:
            self._admission.ended(streams)
        future = self._detach(stream)
        if future is None:
            return
        if isinstance(stream.request.method, Unary):
            future.cancel()
        else:
            self._scheduler.run(streams, partial(_cancel, future))

    # -- within --------------------------------------------------------------------------------------------

    def _start(self, streams: Streams, stream: Stream, running: _Running) -> None:
        if stream.running is running:  # else the call ended before its turn came
            try:
                self._call(streams, stream)
            except Exception as error:
                self._finish(streams, stream, status_of(error, stream.call))
        if running.future is None:
            self._admission.ended(streams)
        else:
            running.future.add_done_callback(lambda _: self._admission.ended(streams))

    def _call(self, streams: Streams, stream: Stream) -> None:
        method = stream.request.method
        if isinstance(method, ClientStreaming):
            self.await_reply(
                streams, stream, method.handler(_Messages(streams, stream, self._scheduler), stream.call)
            )
        elif isinstance(method, ServerStreaming):
            request = streams.read(stream)
            if request is not None:  # else it could not be inflated, and the call is over
                self._pump(streams, stream, method.handler(request, stream.call))
        elif isinstance(method, Bidirectional):
            self._pump(
                streams, stream, method.handler(_Messages(streams, stream, self._scheduler), stream.call)
            )

    def _watch(self, streams: Streams, stream: Stream, future: asyncio.Future[Any]) -> None:
        running: _Running = stream.running or _Running()
        stream.running = running
        running.future = future
        if running.timer is None:
            self._set_timer(streams, stream, running)

    def _set_timer(self, streams: Streams, stream: Stream, running: _Running) -> None:
        deadline = stream.call.deadline
        if deadline is not None:
            left = max(0.0, deadline - self._clock())
            running.timer = self._loop.call_later(left, self._expire, streams, stream)

    def _expire(self, streams: Streams, stream: Stream) -> None:
        self._scheduler.run(streams, partial(streams.finish, stream, _EXPIRED))

    @staticmethod
    def _detach(stream: Stream) -> asyncio.Future[Any] | None:
        """What the stream waited for; nothing of ours holds it any more.

        A task keeps the error that it ended with, and so frames that hold a `_Running`: one that holds the
        task would make a cycle, and cancelled calls would wait for a full collection of garbage.
        """
        running: _Running | None = stream.running
        if running is None:
            return None
        stream.running = None
        if running.timer is not None:
            running.timer.cancel()
        future, running.future = running.future, None
        return future

    def _replied(self, streams: Streams, stream: Stream, done: asyncio.Future[bytes]) -> None:
        """A future with a reply is done; its call may have ended before it."""
        self._detach(stream)
        outcome: bytes | Status
        if done.cancelled():
            outcome = _CANCELLED
        elif (error := done.exception()) is not None:
            # Logged even if the call has already ended.
            outcome = status_of(_as_exception(error), stream.call)
        elif isinstance(reply := _anything(done.result()), bytes):
            outcome = reply
        else:
            outcome = status_of(TypeError("a handler's reply must be bytes"), stream.call)
        if stream.late is not None:
            late_messages.end_call(streams, stream, outcome, self._clock())
        elif isinstance(outcome, bytes):
            streams.reply(stream, outcome)
        else:
            streams.finish(stream, outcome)

    def _pump(self, streams: Streams, stream: Stream, replies: AsyncIterator[bytes]) -> None:
        self._watch(streams, stream, self._loop.create_task(self._send_all(streams, stream, replies)))

    async def _send_all(self, streams: Streams, stream: Stream, replies: AsyncIterator[bytes]) -> None:
        status = _OK
        scheduler = self._scheduler
        try:
            async for reply in replies:
                scheduler.spend(len(reply))
                if not streams.send(stream, reply) or not scheduler.has_room:
                    await self._room(streams, stream)
        except asyncio.CancelledError:
            if stream.running is None:
                raise
            status = _CANCELLED
        except Exception as error:
            status = status_of(error, stream.call)
        finally:
            # A generator suspended at a yield has not noticed that its caller left.
            close = getattr(replies, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()
        self._finish(streams, stream, status)

    def _finish(self, streams: Streams, stream: Stream, status: Status) -> None:
        self._detach(stream)
        streams.finish(stream, status)

    async def _room(self, streams: Streams, stream: Stream) -> None:
        """Return when the next reply may be sent, not before what was sent has been written."""
        await self._scheduler.wait(streams)
        running: _Running | None = stream.running
        while running is not None and (stream.unsent or streams.paused) and not stream.closed:
            running.writable = self._loop.create_future()
            await running.writable


class _Messages:
    """The messages of a streaming request. Reading opens the peer's windows; not reading shuts them."""

    __slots__ = ("_scheduler", "_stream", "_streams")

    def __init__(self, streams: Streams, stream: Stream, scheduler: FairScheduler) -> None:
        self._streams = streams
        self._stream = stream
        self._scheduler = scheduler

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        stream, scheduler = self._stream, self._scheduler
        while True:
            running: _Running | None = stream.running
            if running is None or stream.closed or stream.local_closed:
                raise asyncio.CancelledError  # a clean end would hide the lost messages
            if stream.assembler is not None and stream.assembler.whole_messages:
                if scheduler.has_time if running.woken else scheduler.has_room:
                    running.woken = False
                    message = self._streams.read(stream)
                    if message is not None:
                        scheduler.spend(len(message))
                        return message
                else:
                    await scheduler.wait(self._streams)
                    running.woken = True
            elif stream.remote_closed:
                raise StopAsyncIteration
            else:
                running.readable = asyncio.get_running_loop().create_future()
                await running.readable


def _cancel(future: asyncio.Future[Any]) -> None:
    future.cancel()


def _anything(reply: object) -> object:
    """What a handler returned, whatever its signature says."""
    return reply


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"handler raised {type(error).__name__}")
