"""Every bound of the transport, with the reason why it stands.

What a peer can make grow is held here: memory, frames a second, time. A peer that goes past a limit loses its
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
    """Connections at once, over all addresses, from their accept on; one more is closed at once. Holds memory
    and descriptors."""

    max_concurrent_streams: int = 1_000
    """SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 5.1.2). One more is refused with REFUSED_STREAM."""

    max_message_bytes: int = 4 * 1024 * 1024
    """One request message, as grpc's default. More ends the call with RESOURCE_EXHAUSTED: holds a length
    larger than what is sent."""

    max_inflated_bytes: int = 1024 * 1024
    """One gzip message after inflation, where that is less. The loop waits for each as a whole: 2 to 4 ms
    here, 8 to 15 ms for 4 MB. More ends the call with RESOURCE_EXHAUSTED."""

    max_header_list_bytes: int = 16 * 1024
    """SETTINGS_MAX_HEADER_LIST_SIZE: a decoded header list, 32 bytes added a field. A call with more is
    refused alone with RESOURCE_EXHAUSTED: many clients never look at the setting."""

    absolute_max_header_list_bytes: int = 64 * 1024
    """A larger list ends the connection, as it is not decoded to its end. HPACK bombs (CVE-2016-6581) grow a
    small block into a large list."""

    max_open_header_bytes: int = 16 * 1024 * 1024
    """Header lists of the streams that are open on a connection, as they lie in memory: 320 bytes added a
    field, so that many tiny fields are seen for what they are. One stream more is refused with
    REFUSED_STREAM. A thousand calls of forty fields fit."""

    max_header_block_bytes: int = 64 * 1024
    """A header block before decoding, over all its frames (CVE-2024-27316). As large as the largest list that
    is decoded, so that the call can be refused alone."""

    max_continuation_frames: int = 8
    """Frames that may continue one header block. Unbounded, empty ones cost CPU for ever (CVE-2024-27316)."""

    stream_window_bytes: int = 256 * 1024
    """SETTINGS_INITIAL_WINDOW_SIZE: what a stream may hold that its handler has not read."""

    connection_window_bytes: int = 1024 * 1024
    """The same over all streams of a connection."""

    max_held_bytes: int = 16 * 1024 * 1024
    """Request bytes held for a connection: messages begun but not whole. At the limit its window stays shut,
    so that a thousand half-sent messages of 4 MB each cannot be (CVE-2019-9517's mirror image)."""

    max_unsent_bytes: int = 16 * 1024 * 1024
    """Reply bytes that wait for a connection's windows. A peer that asks and never opens its window
    (CVE-2019-9511, CVE-2019-9517) loses the connection at this limit."""

    turn_bytes: int = 1024 * 1024
    """After so many bytes, of replies and of messages that were inflated, the rest of a read waits for the
    next turn of the loop, and so do the replies that a handler streams: a read may hold thousands of small
    requests, other connections want their turn, and only what is written can be held back by a peer that does
    not read."""

    turn_seconds: float = 0.001
    """After so long, too: thousands of calls with small replies, or of frames that cost more than their
    bytes. Ten such connections leave an eleventh its turn within 10 ms."""

    resets: Rate = Rate(2_000, 1_000.0)
    """Streams reset before their reply by the peer (rapid reset, CVE-2023-44487), or by us for its mistakes
    (CVE-2025-8671). Each call that ends otherwise earns one: a peer whose deadlines are short is no flood.
    A trusted peer is not held to it."""

    pings: Rate = Rate(200, 50.0)
    """PING frames: each asks for an answer (CVE-2019-9512). Each call and each DATA frame that we sent earns
    one: grpc-go measures bandwidth with a PING for each reply."""

    settings: Rate = Rate(50, 5.0)
    """SETTINGS frames: each asks for an answer (CVE-2019-9515), and may move the window of every stream."""

    settings_parameters: int = 16
    """Of one SETTINGS frame; each one more counts as a frame of `settings`. RFC 9113 knows six, and a frame
    may hold 2,730 of them."""

    empty_frames: Rate = Rate(200, 50.0)
    """DATA frames without data that end nothing (CVE-2019-9518)."""

    idle_frames: Rate = Rate(1_000, 100.0)
    """PRIORITY frames (CVE-2019-9513), unknown frames, and frames on streams that are gone: they ask for
    nothing, and cost CPU. Each call earns five: its caller may cancel it while the answer is on its way."""

    window_updates: Rate = Rate(2_000, 1_000.0)
    """WINDOW_UPDATE frames beyond `window_updates_per_stream`, and two for each DATA frame that we sent."""

    window_updates_per_stream: int = 8
    """Earned by each stream that was opened: a client may open both windows once for each reply."""

    inflated_bytes: Rate = Rate(64 * 1024 * 1024, 64.0 * 1024 * 1024)
    """What gzip messages may grow to, those that turn out too large or broken as well. Each is below
    `max_message_bytes`, but a thousand zeros cost one byte on the wire, so a stream of them could keep a
    core busy."""

    first_frames_seconds: float = 10.0
    """From accept to the end of the client's preface and SETTINGS: an open socket that says nothing."""

    settings_ack_seconds: float = 30.0
    """For the peer to acknowledge our SETTINGS (RFC 9113 section 6.5.3: SETTINGS_TIMEOUT)."""

    message_seconds: float = 30.0
    """From the start of a request message to its end, and of a request that is one message from HEADERS to
    END_STREAM: one byte a minute would hold a stream for hours."""

    stalled_seconds: float = 60.0
    """For a peer to take any of what waits for it: closed windows, or a socket it does not read."""

    lingering_seconds: float = 10.0
    """For a peer to end the requests that were answered before they ended, and to hang up after a GOAWAY."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long connections live. None: for ever."""

    keepalive_seconds: float | None = 60.0
    """A PING goes to a peer that has been silent so long."""

    keepalive_timeout_seconds: float = 20.0
    """A peer that stays silent so long after the PING is gone."""

    max_age_seconds: float | None = None
    """A connection this old is drained, so that clients spread anew over the servers."""

    max_age_jitter: float = 0.1
    """Each connection's age differs by up to this fraction, so that they do not all end at once."""

    max_age_grace_seconds: float = 30.0
    """For calls in flight on a connection that is too old; then it is closed."""
