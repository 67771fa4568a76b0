"""Every bound of the transport, with its reason.

The bounds limit what a peer can make grow: memory, frames per second and time. A peer that exceeds a limit
loses its connection (or the one stream), never more.

The classes are plain dataclasses. The settings validate them with pydantic, which reads the ranges and
descriptions from here; code that builds them directly is not checked against the ranges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt, Le

_DAY_SECONDS: Final = 86_400.0
_MIN_BYTES: Final = 1024
_DEFAULT_WINDOW_BYTES: Final = 65_535
"""The connection window that HTTP/2 starts with; no SETTINGS can lower it (RFC 9113 section 6.9.2)."""
_MAX_31_BIT: Final = 2**31 - 1
"""The largest window and the largest stream identifier (RFC 9113 sections 6.9.1 and 5.1.1)."""

Count = Annotated[int, Ge(1)]
Bytes = Annotated[int, Ge(_MIN_BYTES)]
WindowBytes = Annotated[int, Ge(_MIN_BYTES), Le(_MAX_31_BIT)]
Seconds = Annotated[float, Gt(0), Le(_DAY_SECONDS)]

_VALIDATION: Mapping[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""pydantic's ConfigDict for a section of the settings file, as a plain mapping."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: a burst of `burst`, then `per_second`."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _VALIDATION

    burst: Count
    """How many are allowed at once."""

    per_second: Annotated[float, Gt(0)]
    """How many are allowed each second after the burst."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may ask of the server. The defaults leave Envoy, grpc and h2load far from each limit."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _VALIDATION

    max_connections: Count = 20_000
    """Connections of a sidecar at once, over all its addresses, counted from accept. One more is closed at
    once. Bounds memory and file descriptors."""

    max_concurrent_streams: Annotated[int, Ge(1), Le(_MAX_31_BIT)] = 1_000
    """Calls at once on a connection: SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 5.1.2). One more is
    refused with REFUSED_STREAM, and the client may retry it."""

    max_handlers: Count = 1_000
    """Streaming calls of a sidecar at once, over all connections, each until its handler has ended. One more
    is refused with REFUSED_STREAM, unless its connection has fewer than eight. Bounds memory, 10 KB for each
    call, and the pauses of garbage collection. An Envoy with 64 threads and ten access logs has 640."""

    max_message_bytes: WindowBytes = 4 * 1024 * 1024
    """Size of one request message; the default is grpc's. A larger one ends its call with RESOURCE_EXHAUSTED,
    even if only its length prefix claims the size."""

    max_inflated_bytes: WindowBytes = 1024 * 1024
    """Size of one gzip message after inflation, if less than `max_message_bytes`. A larger one ends its call
    with RESOURCE_EXHAUSTED. Inflation holds up the event loop: 2 to 4 ms at the default, 8 to 15 ms for
    4 MB."""

    max_header_list_bytes: Bytes = 16 * 1024
    """Size of a decoded header list, with 32 bytes added for each field: SETTINGS_MAX_HEADER_LIST_SIZE. Many
    clients ignore the setting, so a call with more is refused alone, with RESOURCE_EXHAUSTED."""

    absolute_max_header_list_bytes: Bytes = 64 * 1024
    """A header list larger than this is not decoded to its end, so it ends the connection. HPACK bombs
    (CVE-2016-6581) turn a small block into a large list."""

    max_open_header_bytes: Bytes = 16 * 1024 * 1024
    """Memory for the header lists of a connection's open streams. Each field counts 320 bytes in addition to
    its text, because that is what many tiny fields cost. A stream beyond the limit is refused with
    REFUSED_STREAM. A thousand calls with forty fields each fit."""

    max_header_block_bytes: Bytes = 64 * 1024
    """Size of a header block before decoding, over all its frames (CVE-2024-27316). The default equals that
    of `absolute_max_header_list_bytes`, so that a call with a large list can be refused alone."""

    max_continuation_frames: Count = 8
    """CONTINUATION frames that one header block may have. Without a bound, empty ones use CPU without end
    (CVE-2024-27316)."""

    stream_window_bytes: WindowBytes = 256 * 1024
    """Bytes that a stream may hold before its handler has read them: SETTINGS_INITIAL_WINDOW_SIZE."""

    connection_window_bytes: Annotated[int, Ge(_DEFAULT_WINDOW_BYTES), Le(_MAX_31_BIT)] = 1024 * 1024
    """Bytes that all streams of a connection may hold before their handlers have read them. HTTP/2 cannot
    express less than 65535."""

    max_held_bytes: Annotated[int, Ge(_DEFAULT_WINDOW_BYTES)] = 16 * 1024 * 1024
    """Bytes of unfinished request messages that a connection may hold. At the limit its window stays closed,
    so a peer cannot leave a thousand messages of 4 MB half sent (compare CVE-2019-9517)."""

    max_total_held_bytes: Annotated[int, Ge(_DEFAULT_WINDOW_BYTES)] = 64 * 1024 * 1024
    """Bytes of unfinished request messages that all connections of a sidecar may hold. At the limit a
    connection that holds more than its share (the limit, divided by the connections) may send no more if its
    peer is trusted; otherwise its calls with unfinished messages end with RESOURCE_EXHAUSTED. Envoy sends log
    messages of 16 KB, so a thousand streams hold 16 MB."""

    max_unsent_bytes: Bytes = 16 * 1024 * 1024
    """Bytes of replies that may wait for a connection's windows. A peer that sends requests and never opens
    its windows (CVE-2019-9511, CVE-2019-9517) loses the connection at this limit."""

    max_bytes_per_turn: Bytes = 1024 * 1024
    """Bytes of replies and inflated messages that a connection may produce in one turn of the event loop. The
    rest of a read, or of a streamed reply, waits for the next turn: a read may hold thousands of small
    requests, and other connections need their turn."""

    turn_seconds: Seconds = 0.001
    """Time that one read may take before the rest of it waits for the next turn of the event loop. It bounds
    thousands of calls with small replies, and frames that cost more than their bytes. With ten such
    connections, an eleventh still gets its turn within 10 ms."""

    shed_after_share: Annotated[float, Gt(0), Le(1)] | None = 0.25
    """The part of its timeout after which a unary call that still waits to be read is refused, with
    RESOURCE_EXHAUSTED, so that an overload does not make every answer late; null: never. In a burst that
    lasts no longer than the timeout, calls may wait for twice as long, and urgent calls for twice as long as
    others. Calls without a timeout are never refused."""

    resets: Rate = Rate(2_000, 1_000.0)
    """Streams reset before their reply, by the peer (rapid reset, CVE-2023-44487) or by the server for the
    peer's mistakes (CVE-2025-8671). Each call that ends otherwise earns one more, so short deadlines do not
    count as a flood. Does not apply to a trusted peer."""

    pings: Rate = Rate(200, 50.0)
    """PING frames; each one asks for an answer (CVE-2019-9512). Each call, and each DATA frame that the
    server sends, earns one more: grpc-go measures bandwidth with a PING for each reply."""

    settings: Rate = Rate(50, 5.0)
    """SETTINGS frames; each one asks for an answer (CVE-2019-9515) and may change the window of every
    stream."""

    settings_parameters: Count = 16
    """Parameters that one SETTINGS frame may have; each further one counts as a frame of `settings`. RFC 9113
    defines six, and a frame has room for 2,730."""

    empty_frames: Rate = Rate(200, 50.0)
    """DATA frames that have no data and do not end the stream (CVE-2019-9518)."""

    idle_frames: Rate = Rate(1_000, 100.0)
    """PRIORITY frames (CVE-2019-9513), unknown frames, and frames on closed streams: they cost CPU and do
    nothing. Each call earns five more, because its caller may cancel it while the answer is on its way."""

    window_updates: Rate = Rate(2_000, 1_000.0)
    """WINDOW_UPDATE frames beyond `window_updates_per_stream`, and beyond two for each DATA frame that the
    server sends."""

    window_updates_per_stream: Count = 8
    """WINDOW_UPDATE frames that each stream earns: a client may open both windows once for each reply."""

    inflated_bytes: Rate = Rate(64 * 1024 * 1024, 64.0 * 1024 * 1024)
    """Bytes that gzip messages may inflate to, including messages that turn out too large or broken. A
    thousand zeros cost one byte on the wire, so a stream of allowed messages could keep a core busy."""

    preface_timeout_seconds: Seconds = 10.0
    """Time from accept to the end of the client's preface and SETTINGS, and for the TLS handshake before
    them. Bounds open sockets that send nothing."""

    settings_ack_seconds: Seconds = 30.0
    """Time for the peer to acknowledge the server's SETTINGS (RFC 9113 section 6.5.3: SETTINGS_TIMEOUT)."""

    message_timeout_seconds: Seconds = 30.0
    """Time from the start of a request message, frame or header block to its end; for a request of one
    message, from HEADERS to END_STREAM. Without it one byte a minute would hold a stream for hours."""

    write_stall_timeout_seconds: Seconds = 60.0
    """Time for a peer to take some of the replies that wait for it, if its windows are closed or it does not
    read its socket."""

    lingering_timeout_seconds: Seconds = 10.0
    """Time for a peer to end requests that were answered before they ended, and to hang up after GOAWAY."""

    def __post_init__(self) -> None:
        """Raises ValueError for limits that contradict each other."""
        if self.max_held_bytes < self.max_message_bytes:
            raise ValueError(
                f"max_held_bytes ({self.max_held_bytes}) is less than max_message_bytes "
                f"({self.max_message_bytes}): the largest message could never become complete"
            )
        if self.max_total_held_bytes < self.max_message_bytes:
            raise ValueError(
                f"max_total_held_bytes ({self.max_total_held_bytes}) is less than max_message_bytes "
                f"({self.max_message_bytes}): the largest message could never become complete"
            )
        if self.absolute_max_header_list_bytes < self.max_header_list_bytes:
            raise ValueError(
                f"absolute_max_header_list_bytes ({self.absolute_max_header_list_bytes}) is less than "
                f"max_header_list_bytes ({self.max_header_list_bytes}): no call could be refused alone"
            )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long connections live."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _VALIDATION

    keepalive_seconds: Seconds | None = 60.0
    """A peer that has been silent for this long gets a PING; null: never."""

    keepalive_timeout_seconds: Seconds = 20.0
    """Time for a peer to send anything after that PING; then its connection is closed."""

    max_age_seconds: Annotated[float, Gt(0), Le(30 * _DAY_SECONDS)] | None = None
    """A connection this old is drained, so that clients rebalance over the servers; null: never. Envoy never
    ends an access-log stream, so that one is cut after the grace, and Envoy reopens it."""

    max_age_jitter: Annotated[float, Ge(0), Le(0.9)] = 0.1
    """Each connection's age limit varies by up to this fraction, so that they do not all end at once."""

    max_age_grace_seconds: Annotated[float, Ge(0), Le(_DAY_SECONDS)] = 30.0
    """Time for calls in flight on a connection that is too old; then it is closed."""
