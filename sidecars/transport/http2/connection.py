"""One HTTP/2 connection that carries gRPC, without a socket: bytes in, calls out; replies in, bytes out.

It uses neither asyncio nor a clock of its own. Each read is walked once; its output is taken in one piece.
"""

from collections.abc import Callable, Mapping
from typing import Final

from sidecars.transport.api.limits import Lifetime, Limits
from sidecars.transport.api.service import Method
from sidecars.transport.http2 import frames
from sidecars.transport.http2.bodies import Bodies
from sidecars.transport.http2.call_handler import CallHandler
from sidecars.transport.http2.control import CONTROL_FRAMES, Control
from sidecars.transport.http2.errors import (
    GoAwayError,
    Reason,
    StreamResetError,
    frame_size_error,
    malformed,
    protocol_error,
)
from sidecars.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    R_BIT,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
)
from sidecars.transport.http2.header_decoder import HeaderDecoder
from sidecars.transport.http2.header_frames import HeaderFrames
from sidecars.transport.http2.headers import ANY_LENGTH, MalformedRequestError
from sidecars.transport.http2.held_bytes import HeldBytes
from sidecars.transport.http2.messages import PREFIX, PREFIX_BYTES
from sidecars.transport.http2.observer import Observer
from sidecars.transport.http2.shedding import Shedding
from sidecars.transport.http2.stream import ServerCall
from sidecars.transport.http2.streams import Streams
from sidecars.transport.http2.timeouts import overdue, suspend
from sidecars.transport.http2.unread_input import UnreadInput, preface_bytes

_ODD_WITHOUT_R_BIT: Final = 0x80000001

LOOK_AT_CLOCK_BYTES: Final = 2048
"""The clock is read again after this many bytes of a read: one or two calls of Envoy. Reading it costs a
twentieth of a call, and a slow call, such as one that verifies a token, has this many bytes."""

_RESET_HEAD: Final = 4 << 8 | RST_STREAM
_RESET_BYTES: Final = HEAD_BYTES + 4

MAX_GOAWAY_TEXT: Final = 200
"""The longest reason in a GOAWAY, in characters; it may quote the peer."""


class Connection:
    """The server's side of one connection.

    `receive` takes the input and `take` returns the output. Once `over` is set, there is no more of either;
    once `drained` holds, the socket can be closed.
    """

    __slots__ = (
        "_awaiting_data",
        "_blocks",
        "_bodies",
        "_calls",
        "_clock",
        "_control",
        "_fast_path",
        "_header_frames",
        "_limits",
        "_observer",
        "_preface_seen",
        "_shedding",
        "_stream_table",
        "_unread",
        "_whole_bytes",
        "fault",
        "has_pending_input",
        "over",
        "streams",
    )

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        calls: CallHandler,
        limits: Limits,
        observer: Observer,
        *,
        peer: str,
        clock: Callable[[], float],
        output_ready: Callable[[], None],
        held_by_all: HeldBytes,
        trusted: bool = False,
    ) -> None:
        now = clock()
        self._clock = clock
        self._calls = calls
        self._limits = limits
        self._observer = observer
        self.streams = Streams(calls, limits, observer, peer, output_ready, held_by_all, trusted=trusted)
        self._stream_table = self.streams.stream_table
        self._blocks = HeaderDecoder(methods, limits)
        self._control = Control(self.streams, self._blocks, limits, now)
        self._bodies = Bodies(self.streams, self._control)
        self._header_frames = HeaderFrames(self._blocks, self.streams, self._control, limits)
        self._preface_seen = False
        self._unread = UnreadInput(now)
        self._shedding = Shedding(limits.shed_after_share, now)
        self._awaiting_data: dict[int, ServerCall] = {}
        """Unary calls whose HEADERS came in this read and whose DATA has not come yet."""
        self._fast_path = False
        """Whether SETTINGS came, no header block is open and the drain has not ended; see `_walk`."""
        self._whole_bytes = min(
            MAX_FRAME_BYTES, limits.max_message_bytes + PREFIX_BYTES, limits.stream_window_bytes
        )
        self.has_pending_input = False
        """Whether input of the last read is left, because its turn was over; `receive` continues with it."""
        self.fault: GoAwayError | None = None
        """The error of the peer that ended the connection; None if there was none."""
        self.over = False
        self._control.greet()

    # -- what the socket does ------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, turn_seconds: float | None = None) -> None:
        """Process one read, for `turn_seconds` at most (None: the limit of that name). Raises nothing."""
        if self.over:
            return
        self._control.last_received_at = self.streams.now = now
        if turn_seconds is None and not self.has_pending_input:  # the usual read, which is small
            self._shedding.read_at = now
        else:
            self._shedding.read(len(data), now, pending=self.has_pending_input)
        self.has_pending_input = False
        unread, start = self._unread, 0
        if unread.data:
            data, start = unread.joined(data)
        seconds = self._limits.turn_seconds if turn_seconds is None else turn_seconds
        try:
            if not self._preface_seen:
                start = preface_bytes(data)
                self._preface_seen = start > 0
            taken = self._walk(data, start, now, seconds) if self._preface_seen else 0
            self.streams.watch_deadlines()
        except GoAwayError as fault:
            self._fail(fault)
            return
        if taken == len(data):
            unread.data = b""
            return
        if taken > start or not unread.data:
            unread.began = now
        if self.has_pending_input:
            unread.keep(data, taken)
        else:
            unread.keep(data[taken:], 0)

    def postpone(self, data: bytes, now: float) -> None:
        """Take the bytes of one read whose turn has not come: the next `receive` processes them."""
        if self.over:
            return
        unread = self._unread
        if not unread.data:
            unread.began = now
        unread.keep(*unread.joined(data))
        self._shedding.read(len(data), now, pending=self.has_pending_input)
        self._control.last_received_at = now
        self.has_pending_input = True

    def take(self) -> bytes:
        """Everything that is ready to be sent, once."""
        fault = self.streams.fault
        if fault is not None and not self.over:
            self._fail(fault)
        return self.streams.send_queue.take()

    def lost(self) -> None:
        """The socket is gone: every call on it is cancelled."""
        self.over = True
        self.has_pending_input = False
        self.streams.end_all()

    def drain(self, now: float) -> None:
        """Take no new calls and let those in flight finish. Repeating it changes nothing."""
        if not self.over:
            self._control.drain(now)
            self.streams.drain()
            self._fast_path = self._fast_path and self._control.serving

    @property
    def drained(self) -> bool:
        """Whether the drain has ended: the last stream is named, and no stream is open."""
        return self._control.final_id is not None and not self.streams.table and not self.has_pending_input

    def tick(self, now: float, lifetime: Lifetime) -> None:
        """End what has taken too long. Call it regularly; raises nothing."""
        if self.over:
            return
        self.streams.now = now
        if self.streams.paused:
            self._control.last_received_at = self._unread.began = now
            suspend(self.streams, now)
        try:
            self._control.check_times(now, lifetime)
            self.streams.check_held()
            self._fast_path = self._fast_path and self._control.serving
            block = self._header_frames.open
            began = block.began if block is not None else self._unread.began if self._unread.data else now
            if now - began > self._limits.message_timeout_seconds:
                raise GoAwayError(
                    ErrorCode.ENHANCE_YOUR_CALM, Reason.SLOW_MESSAGE, "a frame that does not end"
                )
            for late in overdue(self.streams, self._limits, now):
                self._observer.peer_error(late.reason)
                self.streams.reset(late.stream_id, late.code)
        except GoAwayError as fault:
            self._fail(fault)

    # -- reading -------------------------------------------------------------------------------------------

    def _walk(self, data: bytes, pos: int, now: float, turn_seconds: float) -> int:
        """Act on each complete frame from `pos`; returns where the first incomplete frame begins.

        Fast path: a unary call whose HEADERS and only DATA frame come in one read is served without a Stream.
        Its HEADERS wait in `_awaiting_data`, because clients write those of several calls before their DATA.
        It requires `_fast_path` here, a new odd stream and room for it in `_begin`, and one uncompressed
        message within the windows in `_whole_request`. All else goes to `_frame`, once waiting calls have a
        Stream. A call whose RST_STREAM follows is not begun. What is left waits for the next `receive`.
        """
        end = len(data)
        last_head = end - HEAD_BYTES
        unpack = HEAD.unpack_from
        send_queue = self.streams.send_queue
        enough = self._limits.max_bytes_per_turn
        look = pos + LOOK_AT_CLOCK_BYTES
        begun = self._awaiting_data
        serve = self._whole_request if self._shedding.read_at == now else self._late_request
        while pos <= last_head:
            if pos > look or send_queue.bytes_this_turn > enough:
                if send_queue.bytes_this_turn > enough or self._clock() - now > turn_seconds:
                    self.has_pending_input = True
                    break
                look = pos + LOOK_AT_CLOCK_BYTES
            head, flags, stream_id = unpack(data, pos)
            length = head >> 8
            if length > MAX_FRAME_BYTES:
                raise frame_size_error(f"a frame of {length} bytes: at most {MAX_FRAME_BYTES}")
            body = pos + HEAD_BYTES
            stop = body + length
            if stop > end:
                break
            kind = head & 0xFF
            if kind == DATA and flags == END_STREAM and stream_id in begun:
                call = begun.pop(stream_id)
                if self._stream_table.cancels and data.startswith(
                    HEAD.pack(_RESET_HEAD, 0, stream_id), stop, end - 4
                ):
                    self._bodies.skip(stream_id, length)
                    stop += _RESET_BYTES
                else:
                    serve(stream_id, call, data, body, stop)
            elif kind == HEADERS and flags == END_HEADERS and self._fast_path:
                self._begin(stream_id, data[body:stop])
            else:
                if begun:
                    self._open_begun()
                self._frame(kind, flags, stream_id & ~R_BIT, data[body:stop])
                look = pos  # such a frame may cost more than its bytes, and may have none
            pos = stop
        if begun:
            self._open_begun()
        return pos

    def _begin(self, stream_id: int, block: bytes) -> None:
        """Begin a call by HEADERS in one frame without END_STREAM, the usual way."""
        stream_table = self._stream_table
        if (
            stream_id <= stream_table.last_id
            or stream_id & _ODD_WITHOUT_R_BIT != 1
            or len(stream_table.table) + len(self._awaiting_data) >= stream_table.most
            or len(block) > self._limits.max_header_block_bytes
        ):
            self._open_begun()
            self._frame(HEADERS, END_HEADERS, stream_id & ~R_BIT, block)
            return
        request = self._blocks.known.get(block)
        stream_table.last_id = stream_id
        if request is None:
            try:
                request = self._blocks.request(block)
            except MalformedRequestError as error:
                self._reset(malformed(stream_id, str(error)))
                return
        call = ServerCall(request, block, self.streams.peer, self._shedding.read_at)
        if request.unary is not None:
            self._awaiting_data[stream_id] = call
        else:
            self._open(stream_id, call)
            self._raise_fault()

    def _whole_request(self, stream_id: int, call: ServerCall, data: bytes, body: int, stop: int) -> None:
        """The only DATA frame of a unary call: almost always one complete message."""
        streams, receive_flow = self.streams, self.streams.receive_flow
        request, size = call.request, stop - body
        handler = request.unary
        if size >= PREFIX_BYTES and handler is not None:
            compressed, length = PREFIX.unpack_from(data, body)
            if (
                length == size - PREFIX_BYTES
                and not compressed
                and size <= self._whole_bytes
                and size <= receive_flow.window
                and request.content_length in (ANY_LENGTH, size)
            ):
                receive_flow.window -= size
                if receive_flow.window < receive_flow.low:
                    self._bodies.top_up()
                outcome = self._calls.answer(handler, data[body + PREFIX_BYTES : stop], call)
                if type(outcome) is bytes and streams.send_queue.reply(stream_id, outcome):
                    self._stream_table.opened += 1
                else:
                    streams.settle(stream_id, call, outcome)
                    self._raise_fault()
                return
        self._open(stream_id, call)
        self._frame(DATA, END_STREAM, stream_id, data[body:stop])

    def _late_request(self, stream_id: int, call: ServerCall, data: bytes, body: int, stop: int) -> None:
        """As `_whole_request`, for a call that has waited in this process."""
        if self._shedding.refuses(call, data[body + PREFIX_BYTES : stop], self._clock()):
            self._bodies.refuse(stream_id, stop - body)
        else:
            self._whole_request(stream_id, call, data, body, stop)

    def _open_begun(self) -> None:
        """Give the calls in `_awaiting_data` a Stream, because they need more than the fast path."""
        for stream_id, call in self._awaiting_data.items():
            self._open(stream_id, call)
        self._awaiting_data.clear()

    def _open(self, stream_id: int, call: ServerCall) -> None:
        try:
            self.streams.open(stream_id, call, ended=False)
        except StreamResetError as fault:
            self._reset(fault)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Process any frame outside of the fast path."""
        if not self._fast_path:
            self._check_order(kind, flags)
        try:
            if kind == DATA:
                self._bodies.data(flags, stream_id, payload)
            elif kind == HEADERS:
                self._header_frames.headers(flags, stream_id, payload)
            elif kind == CONTINUATION:
                self._header_frames.continuation(flags, stream_id, payload)
            else:
                CONTROL_FRAMES.get(kind, Control.unknown)(self._control, flags, stream_id, payload)
        except StreamResetError as fault:
            self._reset(fault)
        self._fast_path = self._header_frames.open is None and self._control.serving
        self._raise_fault()

    def _reset(self, fault: StreamResetError) -> None:
        """Reset a stream for an error of the peer. Counts as a reset by the peer: it costs as much."""
        self._observer.peer_error(fault.reason)
        self.streams.flood_guard.count(Reason.RAPID_RESET, self.streams.now)
        self.streams.reset(fault.stream_id, fault.code)

    def _check_order(self, kind: int, flags: int) -> None:
        if not self._control.settings_received and (kind != SETTINGS or flags & ACK):
            raise protocol_error(Reason.FRAME_ORDER, "expected SETTINGS after the preface")
        if self._header_frames.open is not None and kind != CONTINUATION:
            raise protocol_error(Reason.FRAME_ORDER, "expected CONTINUATION of an open header block")

    def _raise_fault(self) -> None:
        if self.streams.fault is not None:
            raise self.streams.fault

    def _fail(self, fault: GoAwayError) -> None:
        # Its traceback leads to us: kept, it would hold all this until the next collection of garbage.
        fault.__traceback__ = fault.__context__ = None
        self.fault = fault
        self._observer.peer_error(fault.reason)
        self._observer.goaway_sent(fault.code)
        self.lost()
        self.streams.send_queue.put(
            frames.goaway(self._stream_table.last_id, fault.code, fault.detail[:MAX_GOAWAY_TEXT])
        )
