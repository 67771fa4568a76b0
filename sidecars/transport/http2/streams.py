"""The streams of one connection: what frames do to them, and what running handlers do with them."""

from collections.abc import Callable
from typing import Final

from sidecars.transport.api.limits import Limits
from sidecars.transport.api.service import Bidirectional, ClientStreaming, Code, Status, StatusError, Unary
from sidecars.transport.http2 import frames, responses
from sidecars.transport.http2.call_handler import CallHandler, Outcome
from sidecars.transport.http2.errors import GoAwayError, Reason, StreamResetError, too_many_handlers
from sidecars.transport.http2.flood_guard import FloodGuard
from sidecars.transport.http2.frames import ErrorCode
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.http2.messages import MessageDeframer
from sidecars.transport.http2.observer import Observer
from sidecars.transport.http2.receive_flow import ReceiveFlow, check_length
from sidecars.transport.http2.send_queue import SendQueue
from sidecars.transport.http2.stream import Ending, ServerCall, Stream
from sidecars.transport.http2.stream_table import StreamTable

HANDLER_COST_BYTES: Final = 32 * 1024
"""Counted towards `max_bytes_per_turn` for each handler that runs later: one that starts or is cancelled."""


class Streams:
    """The stream table of a connection, with the windows that the streams share."""

    __slots__ = (
        "_calls",
        "_draining",
        "_limits",
        "_timed",
        "_trusted",
        "ending",
        "fault",
        "flood_guard",
        "now",
        "observer",
        "output_ready",
        "paused",
        "peer",
        "receive_flow",
        "send_queue",
        "stream_table",
        "table",
    )

    def __init__(
        self,
        calls: CallHandler,
        limits: Limits,
        observer: Observer,
        peer: str,
        output_ready: Callable[[], None],
        held_by_all: HeldBytes,
        *,
        trusted: bool,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self.output_ready = output_ready
        self._trusted = trusted
        self._draining = False
        self._timed: list[Stream] | None = None
        """Streams of this read whose caller gives up some time, and may do so before it has asked."""
        self.observer = observer
        self.peer = peer
        self.send_queue = SendQueue()
        self.receive_flow = ReceiveFlow(limits, held_by_all)
        self.stream_table = StreamTable(limits)
        self.table = self.stream_table.table
        self.flood_guard = FloodGuard(limits, self.stream_table, self.send_queue, trusted=trusted)
        self.now = 0.0
        self.paused = False
        """Whether the socket takes no more; streamed replies wait."""
        self.ending: dict[int, Ending] = {}
        """The calls, by stream, that end once their client has sent what it holds."""
        self.fault: GoAwayError | None = None
        """What a handler's reply did to the connection; handled when output is taken."""

    # -- what frames do ------------------------------------------------------------------------------------

    def open(self, stream_id: int, call: ServerCall, *, ended: bool) -> None:
        """HEADERS of a new stream came."""
        self.stream_table.check_room(stream_id)
        stream, request = self._register(stream_id, call), call.request
        if request.http_status:
            headers = responses.no_grpc_headers(stream_id, request.http_status)
            self.send_queue.send_text(stream, headers, responses.NO_GRPC_TEXT)
            self._sent(stream)
        elif request.refusal is not None:
            self._end(stream, responses.trailers_only(stream_id, request.refusal))
        else:
            stream.assembler = MessageDeframer(self._limits.max_message_bytes)
            if isinstance(request.method, ClientStreaming | Bidirectional):
                self._begin(stream)
            elif request.timeout_seconds is not None:
                if self._timed is None:
                    self._timed = []
                self._timed.append(stream)
        if ended:
            self.end_request(stream)

    def watch_deadlines(self) -> None:
        """At the end of a read: the time of calls that have begun in it and not come whole runs."""
        if self._timed:
            for stream in self._timed:
                if not (stream.remote_closed or stream.local_closed or stream.closed):
                    self._calls.watch(self, stream)
            self._timed = None

    def settle(self, stream_id: int, call: ServerCall, outcome: Outcome) -> None:
        """A unary call that came whole, and has no reply that can leave at once."""
        stream = self._register(stream_id, call)
        stream.remote_closed = True
        self._settle(stream, outcome)

    def data(self, stream: Stream, payload: bytes, size: int, *, ended: bool) -> None:
        """DATA came; `size` is its payload with the padding."""
        if stream.remote_closed:
            raise StreamResetError(
                stream.id, ErrorCode.STREAM_CLOSED, Reason.STREAM_CLOSED, "DATA after the end of the stream"
            )
        self.receive_flow.received_on(stream, size)
        stream.received_bytes += len(payload)
        check_length(stream, ended=ended)
        if stream.assembler is None:  # already answered: the rest is not read, and its window stays closed
            if not ended and stream.receive_window < self.receive_flow.first_window // 2:
                self.reset(stream.id, ErrorCode.NO_ERROR)
                return
        elif payload:
            self._assemble(stream, stream.assembler, payload)
        if ended:
            self.end_request(stream)
        else:
            self.put(self.receive_flow.top_up_stream(stream))

    def end_request(self, stream: Stream) -> None:
        """END_STREAM came."""
        if stream.remote_closed:
            raise StreamResetError(
                stream.id, ErrorCode.STREAM_CLOSED, Reason.STREAM_CLOSED, "a second end of the stream"
            )
        check_length(stream, ended=True)
        stream.remote_closed = True
        if stream.local_closed:
            self._close_if_over(stream)
        elif stream.assembler is not None and stream.assembler.held_bytes:
            self._fail(stream, Status(Code.INTERNAL, "the request ended within a message"))
        elif isinstance(stream.request.method, ClientStreaming | Bidirectional):
            self._calls.resume(self, stream)
        elif stream.assembler is None or stream.assembler.whole_messages != 1:
            self._fail(stream, responses.NOT_ONE_MESSAGE)
        elif isinstance(stream.request.method, Unary):
            self._settle(stream, self._answer(stream, stream.assembler, stream.request.method))
        else:
            self._begin(stream)

    def reset_by_peer(self, stream: Stream) -> None:
        """RST_STREAM came."""
        self.stream_table.remember_reset(stream.id, by_peer=True)
        self.stream_table.cut += not stream.local_closed
        self._leave(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream with RST_STREAM, whether it is open or not."""
        self.put(frames.rst_stream(stream_id, code))
        self.observer.reset_sent(code)
        self.stream_table.remember_reset(stream_id, by_peer=False)
        stream = self.table.get(stream_id)
        if stream is not None:
            stream.call.cancelled = not stream.local_closed
            self.stream_table.cut += not stream.local_closed
            self._close(stream)

    def window_opened(self, stream: Stream | None, increment: int) -> None:
        """WINDOW_UPDATE came, for a stream or, if None, for the connection."""
        if stream is None:
            for served in self.send_queue.opened(increment):
                self._sent(served)
            return
        self.send_queue.stream_opened(stream, increment)
        self._push(stream)

    def initial_window_changed(self, last: int, largest: int) -> None:
        """The peer's SETTINGS_INITIAL_WINDOW_SIZE changed. Raises GoAwayError if a window overflows."""
        streams = list(self.table.values())
        self.send_queue.initial_window_changed(streams, last, largest)
        for stream in streams:
            if stream.unsent:
                self._push(stream)

    def our_settings_known(self) -> None:
        """The peer has acknowledged our SETTINGS."""
        self.put(self.receive_flow.settings_acknowledged(self.table.values()))

    def resume(self) -> None:
        """The socket takes more again."""
        self.paused = False
        for stream in list(self.table.values()):
            self._calls.resume(self, stream)

    def drain(self) -> None:
        """Start the handlers of streams that have sent nothing, too: only handlers can end their calls."""
        self._draining = True
        for stream in list(self.table.values()):
            self._calls.start_now(self, stream)

    def check_held(self) -> None:
        """Let the peer send, unless it exceeds its share; unless it is trusted, its messages are cut then."""
        if self.receive_flow.exceeds_share and not self._trusted:
            for stream in list(self.table.values()):
                if stream.assembler is not None and stream.assembler.held_bytes:
                    self.observer.peer_error(Reason.TOO_MANY_HELD_BYTES)
                    self._fail(stream, responses.TOO_MANY_HELD_BYTES)
        self.put(self.receive_flow.top_up())

    def end_all(self) -> None:
        """The connection is over: every caller has gone."""
        for stream in list(self.table.values()):
            self._leave(stream)

    def put(self, frames: bytes) -> None:
        """Send frames other than DATA; empty if there are none."""
        if frames:
            self.send_queue.put(frames)

    # -- what handlers do ----------------------------------------------------------------------------------

    def reply(self, stream: Stream, message: bytes) -> None:
        """The one reply of a call, and OK."""
        if not stream.local_closed and not stream.closed:
            self._reply(stream, message)
            self.output_ready()

    def send(self, stream: Stream, message: bytes) -> bool:
        """One of many replies. False: send the next one in a later turn of the loop, once there is room."""
        if stream.local_closed or stream.closed:
            return True
        self.send_queue.send(stream, message)
        self._check_unsent()
        self.output_ready()
        return not (
            stream.unsent or self.paused or self.send_queue.bytes_this_turn > self._limits.max_bytes_per_turn
        )

    def finish(self, stream: Stream, status: Status) -> None:
        """The end of a call, after what was sent."""
        if not stream.local_closed and not stream.closed:
            self._end_with(stream, status)
            self.output_ready()

    def read(self, stream: Stream) -> bytes | None:
        """The next message, for which windows open again; None: none yet, or it ends the call as bad gzip."""
        assembler = stream.assembler
        if assembler is None or not assembler.whole_messages:
            return None
        message = self._read(stream, assembler)
        if isinstance(message, Status):
            self._fail(stream, message)
        else:
            self.put(self.receive_flow.top_up_stream(stream))
        self.put(self.receive_flow.top_up())
        self.output_ready()
        return message if isinstance(message, bytes) else None

    # -- within --------------------------------------------------------------------------------------------

    def _register(self, stream_id: int, call: ServerCall) -> Stream:
        stream = Stream(stream_id, call, self.receive_flow.first_window, self.send_queue.initial_window)
        self.stream_table.add(stream)
        return stream

    def _begin(self, stream: Stream) -> None:
        if not self._calls.has_room(self):
            raise too_many_handlers(stream.id)
        self.send_queue.bytes_this_turn += HANDLER_COST_BYTES
        self._calls.start_stream(self, stream)
        if self._draining:
            self._calls.start_now(self, stream)

    def _settle(self, stream: Stream, outcome: Outcome) -> None:
        if isinstance(outcome, bytes):
            self._reply(stream, outcome)
        elif isinstance(outcome, Status):
            self._fail(stream, outcome)
        else:
            self.send_queue.bytes_this_turn += HANDLER_COST_BYTES
            self._calls.await_reply(self, stream, outcome)

    def _answer(self, stream: Stream, assembler: MessageDeframer, method: Unary) -> Outcome:
        message = self._read(stream, assembler)
        if isinstance(message, Status):
            return message
        return self._calls.answer(method.handler, message, stream.call)

    def _assemble(self, stream: Stream, assembler: MessageDeframer, payload: bytes) -> None:
        try:
            messages = self.receive_flow.assemble(stream, assembler, payload, self.now)
        except StatusError as error:
            self.observer.peer_error(Reason.BAD_MESSAGE)
            self._fail(stream, error.status)
            return
        if self.receive_flow.exceeds_share:
            self.check_held()
        if not messages:
            return
        if stream.local_closed or stream.reads_on:
            self.put(self.receive_flow.take_late(stream))
        elif isinstance(stream.request.method, ClientStreaming | Bidirectional):
            self._calls.resume(self, stream)
        elif assembler.whole_messages > 1:
            self._fail(stream, responses.NOT_ONE_MESSAGE)

    def _read(self, stream: Stream, assembler: MessageDeframer) -> bytes | Status:
        """The next message, inflated, or the status that tells why it cannot be inflated."""
        message, inflated_bytes = self.receive_flow.take(stream, assembler)
        if inflated_bytes:
            self.send_queue.bytes_this_turn += inflated_bytes
            try:
                self.flood_guard.count(Reason.INFLATION_FLOOD, self.now, inflated_bytes)
            except GoAwayError as fault:
                self.fault = fault
        return message

    def _reply(self, stream: Stream, message: bytes) -> None:
        if stream.send_window == self.send_queue.initial_window and self.send_queue.reply(stream.id, message):
            stream.headers_sent = True
            stream.local_closed = True
            self._sent(stream)
            return
        self.send_queue.send(stream, message)
        self._check_unsent()
        self._end(stream, responses.ok_trailers(stream.id))

    def _fail(self, stream: Stream, status: Status) -> None:
        if stream.local_closed or stream.reads_on:  # a message after the reply, which nothing can answer
            stream.late = None
            self._forget_request(stream)
        else:
            self._end_with(stream, status)

    def _end_with(self, stream: Stream, status: Status) -> None:
        build = responses.trailers if stream.headers_sent else responses.trailers_only
        self._end(stream, build(stream.id, status))

    def _end(self, stream: Stream, trailers: bytes) -> None:
        self._forget_request(stream)
        if stream.running is not None:  # it was not the handler that ended the call
            self._calls.cancel(self, stream)
        self.send_queue.finish(stream, trailers)
        self._sent(stream)

    def _push(self, stream: Stream) -> None:
        self.send_queue.push(stream)
        self._sent(stream)

    def _sent(self, stream: Stream) -> None:
        """Something of a stream may have left."""
        if stream.local_closed:
            self._close_if_over(stream)
        elif not stream.unsent:
            self._calls.resume(self, stream)

    def _close_if_over(self, stream: Stream) -> None:
        if stream.trailers is None and not stream.unsent:
            if stream.remote_closed:
                self._close(stream)
            else:
                self._forget_request(stream)
                stream.message_began = self.now  # from here on it lingers

    def _check_unsent(self) -> None:
        if self.send_queue.unsent_bytes > self._limits.max_unsent_bytes and self.fault is None:
            detail = f"more than {self._limits.max_unsent_bytes} bytes of replies wait for the peer's windows"
            self.fault = GoAwayError(ErrorCode.ENHANCE_YOUR_CALM, Reason.UNSENT_REPLIES, detail)

    def _forget_request(self, stream: Stream) -> None:
        """Let go of what no handler will read, so that it takes no window."""
        if stream.reads_on:
            return
        self.receive_flow.forget(stream)
        # What it took may be all that kept the connection's window shut.
        self.put(self.receive_flow.top_up())

    def _leave(self, stream: Stream) -> None:
        stream.call.cancelled = True
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.closed = True
        self.ending.pop(stream.id, None)
        self.stream_table.remove(stream)
        self._forget_request(stream)
        self.send_queue.drop(stream)
        if stream.running is not None:
            self.send_queue.bytes_this_turn += HANDLER_COST_BYTES
            self._calls.cancel(self, stream)
