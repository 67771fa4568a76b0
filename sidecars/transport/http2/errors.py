"""What a peer did wrong, with the code that tells it so."""

from enum import StrEnum

from sidecars.transport.http2.frames import ErrorCode


class Reason(StrEnum):
    """Why a connection or stream was ended; the label of the counter, so there are few and no others."""

    BAD_PREFACE = "bad_preface"
    FRAME_SIZE = "frame_size"
    FRAME_ORDER = "frame_order"
    STREAM_ID = "stream_id"
    STREAM_CLOSED = "stream_closed"
    HEADER_BLOCK = "header_block"
    HEADER_LIST_SIZE = "header_list_size"
    CONTINUATION_FLOOD = "continuation_flood"
    MALFORMED_REQUEST = "malformed_request"
    CONTENT_LENGTH = "content_length"
    BAD_MESSAGE = "bad_message"
    SETTINGS_VALUE = "settings_value"
    FLOW_CONTROL = "flow_control"
    WINDOW_OVERFLOW = "window_overflow"
    ZERO_INCREMENT = "zero_increment"
    PADDING = "padding"
    SELF_DEPENDENCY = "self_dependency"
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_HANDLERS = "too_many_handlers"
    TOO_MANY_HELD_BYTES = "too_many_held_bytes"
    RAPID_RESET = "rapid_reset"
    PING_FLOOD = "ping_flood"
    SETTINGS_FLOOD = "settings_flood"
    EMPTY_FRAME_FLOOD = "empty_frame_flood"
    IDLE_FRAME_FLOOD = "idle_frame_flood"
    WINDOW_UPDATE_FLOOD = "window_update_flood"
    INFLATION_FLOOD = "inflation_flood"
    UNSENT_REPLIES = "unsent_replies"
    STALLED = "stalled"
    SLOW_MESSAGE = "slow_message"
    SLOW_START = "slow_start"
    SETTINGS_TIMEOUT = "settings_timeout"
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TLS_HANDSHAKE = "tls_handshake"
    TLS_WITHOUT_H2 = "tls_without_h2"


class PeerError(Exception):
    """A peer broke a rule: `code` for the wire, `reason` for a counter, the text for GOAWAY and the log."""

    def __init__(self, code: ErrorCode, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail


class GoAwayError(PeerError):
    """The connection cannot go on: GOAWAY (RFC 9113 section 5.4.1)."""


class StreamResetError(PeerError):
    """One stream cannot go on: RST_STREAM (RFC 9113 section 5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode, reason: Reason, detail: str) -> None:
        super().__init__(code, reason, detail)
        self.stream_id = stream_id


def protocol_error(reason: Reason, detail: str) -> GoAwayError:
    """A connection error of type PROTOCOL_ERROR."""
    return GoAwayError(ErrorCode.PROTOCOL_ERROR, reason, detail)


def frame_size_error(detail: str) -> GoAwayError:
    """A connection error of type FRAME_SIZE_ERROR (RFC 9113 section 4.2)."""
    return GoAwayError(ErrorCode.FRAME_SIZE_ERROR, Reason.FRAME_SIZE, detail)


def malformed(stream_id: int, detail: str) -> StreamResetError:
    """A malformed request (RFC 9113 section 8.1.1)."""
    return StreamResetError(stream_id, ErrorCode.PROTOCOL_ERROR, Reason.MALFORMED_REQUEST, detail)


def too_many_handlers(stream_id: int) -> StreamResetError:
    """The server runs as many streaming calls as it may; the client may retry this one."""
    return StreamResetError(
        stream_id, ErrorCode.REFUSED_STREAM, Reason.TOO_MANY_HANDLERS, "too many streaming calls at once"
    )
