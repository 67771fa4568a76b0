"""Every bound of the transport, with its reason.

They bound what a peer can make grow: memory, frames a second, time. A peer that exceeds a limit loses its
connection (or the one stream), never more.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and so many a second after that."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may ask of the server. The defaults leave Envoy, grpc and h2load far from each limit."""

    max_connections: int = 20_000
    """Connections at once, over all addresses, from their accept on; one more is closed at once. Bounds
    memory and descriptors."""

    max_concurrent_streams: int = 1_000
    """SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 5.1.2). One more is refused with REFUSED_STREAM."""

    max_message_bytes: int = 4 * 1024 * 1024
    """One request message; the default is grpc's. More ends the call with RESOURCE_EXHAUSTED, even if only
    the length claims it."""

    max_inflated_bytes: int = 1024 * 1024
    """One gzip message after inflation, if less than `max_message_bytes`. The loop waits for each as a whole:
    2 to 4 ms here, 8 to 15 ms for 4 MB. More ends the call with RESOURCE_EXHAUSTED."""

    max_header_list_bytes: int = 16 * 1024
    """SETTINGS_MAX_HEADER_LIST_SIZE: a decoded header list, with 32 bytes added for each field. A call with
    more is refused alone with RESOURCE_EXHAUSTED, since many clients ignore the setting."""

    absolute_max_header_list_bytes: int = 64 * 1024
    """A larger list ends the connection, since it is not decoded to its end. HPACK bombs (CVE-2016-6581) grow
    a small block into a large list."""

    max_open_header_bytes: int = 16 * 1024 * 1024
    """Header lists of the open streams of a connection, by their size in memory: 320 bytes are added for each
    field, because many tiny fields cost that much. A stream beyond it is refused with REFUSED_STREAM. A
    thousand calls of forty fields fit."""

    max_header_block_bytes: int = 64 * 1024
    """A header block before decoding, over all its frames (CVE-2024-27316). As large as the largest list that
    is decoded, so that the call can be refused alone."""

    max_continuation_frames: int = 8
    """Frames that may continue one header block. Without a bound, empty ones cost CPU without end
    (CVE-2024-27316)."""

    stream_window_bytes: int = 256 * 1024
    """SETTINGS_INITIAL_WINDOW_SIZE: bytes that a stream may hold before its handler has read them."""

    connection_window_bytes: int = 1024 * 1024
    """Bytes that all streams of a connection may hold before their handlers have read them."""

    max_held_bytes: int = 16 * 1024 * 1024
    """Request bytes held for a connection: messages begun but not whole. At the limit its window stays shut,
    so that a thousand half-sent messages of 4 MB each are impossible (the mirror image of CVE-2019-9517)."""

    max_unsent_bytes: int = 16 * 1024 * 1024
    """Reply bytes that wait for a connection's windows. A peer that asks and never opens its window
    (CVE-2019-9511, CVE-2019-9517) loses the connection at this limit."""

    max_bytes_per_turn: int = 1024 * 1024
    """After so many bytes, of replies and of messages that were inflated, the rest of a read waits for the
    next turn of the loop, and so do the replies that a handler streams: a read may hold thousands of small
    requests, other connections want their turn, and only what is written can be held back by a peer that does
    not read."""

    turn_seconds: float = 0.001
    """The same after so many seconds: for thousands of calls with small replies, or of frames that cost more
    than their bytes. Ten such connections leave an eleventh its turn within 10 ms."""

    resets: Rate = Rate(2_000, 1_000.0)
    """Streams reset before their reply by the peer (rapid reset, CVE-2023-44487), or by the server for the
    peer's mistakes (CVE-2025-8671). Each call that ends otherwise earns one, so short deadlines do not count
    as a flood. It does not apply to a trusted peer."""

    pings: Rate = Rate(200, 50.0)
    """PING frames: each asks for an answer (CVE-2019-9512). Each call and each DATA frame that we sent earns
    one: grpc-go measures bandwidth with a PING for each reply."""

    settings: Rate = Rate(50, 5.0)
    """SETTINGS frames: each asks for an answer (CVE-2019-9515), and may move the window of every stream."""

    settings_parameters: int = 16
    """Parameters of one SETTINGS frame; each further one counts as a frame of `settings`. RFC 9113 knows six,
    and a frame may hold 2,730 of them."""

    empty_frames: Rate = Rate(200, 50.0)
    """DATA frames without data that end nothing (CVE-2019-9518)."""

    idle_frames: Rate = Rate(1_000, 100.0)
    """PRIORITY frames (CVE-2019-9513), unknown frames, and frames on streams that are gone: they cost
    CPU for nothing. Each call earns five: its caller may cancel it while the answer is on its way."""

    window_updates: Rate = Rate(2_000, 1_000.0)
    """WINDOW_UPDATE frames beyond `window_updates_per_stream`, and two for each DATA frame that we sent."""

    window_updates_per_stream: int = 8
    """WINDOW_UPDATE frames that each stream earns: a client may open both windows once for each reply."""

    inflated_bytes: Rate = Rate(64 * 1024 * 1024, 64.0 * 1024 * 1024)
    """Bytes that gzip messages may inflate to, those that turn out too large or broken included. Each is
    below `max_message_bytes`, but a thousand zeros cost one byte on the wire, so a stream of them could keep
    a core busy."""

    preface_timeout_seconds: float = 10.0
    """From accept to the end of the client's preface and SETTINGS; bounds open sockets that send nothing."""

    settings_ack_seconds: float = 30.0
    """Time for the peer to acknowledge our SETTINGS (RFC 9113 section 6.5.3: SETTINGS_TIMEOUT)."""

    message_timeout_seconds: float = 30.0
    """Time from the start of a request message to its end and, if the request is one message, from HEADERS to
    END_STREAM: otherwise one byte a minute would hold a stream for hours."""

    write_stall_timeout_seconds: float = 60.0
    """Time for a peer to take some of what waits for it, if its windows are shut or it does not read its
    socket."""

    lingering_timeout_seconds: float = 10.0
    """Time for a peer to end requests that were answered before they ended, and to hang up after a GOAWAY."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long connections live. None: without limit."""

    keepalive_seconds: float | None = 60.0
    """A PING goes to a peer that has been silent so long."""

    keepalive_timeout_seconds: float = 20.0
    """A peer that stays silent so long after the PING is gone."""

    max_age_seconds: float | None = None
    """A connection this old is drained, so that clients rebalance over the servers."""

    max_age_jitter: float = 0.1
    """Each connection's age differs by up to this fraction, so that they do not all end at once."""

    max_age_grace_seconds: float = 30.0
    """Time for calls in flight on a connection that is too old; then it is closed."""
