"""The frames of HTTP/2 as bytes (RFC 9113 sections 4 and 6)."""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 section 3.4)."""

HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
"""The largest payload we accept: the default of SETTINGS_MAX_FRAME_SIZE, which we leave as it is."""

MAX_WINDOW_BYTES: Final = 2**31 - 1
DEFAULT_WINDOW_BYTES: Final = 65_535
MAX_STREAM_ID: Final = 2**31 - 1
R_BIT: Final = 0x80000000
"""The bit before a stream's number, and before some others: reserved and ignored (RFC 9113 section 4.1)."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20


class Setting(IntEnum):
    """Parameters of a SETTINGS frame (RFC 9113 section 6.5.2)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ErrorCode(IntEnum):
    """Codes of RST_STREAM and GOAWAY (RFC 9113 section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


HEAD: Final = Struct(">IBI")
"""A frame's head as three numbers: length * 256 + type, flags, stream."""

_UINT32: Final = Struct(">I")
_TWO_UINT32: Final = Struct(">II")
_SETTING: Final = Struct(">HI")


def head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The nine bytes before a payload."""
    return HEAD.pack(length << 8 | kind, flags, stream_id)


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """RST_STREAM: one stream ends now."""
    return head(RST_STREAM, 0, stream_id, 4) + _UINT32.pack(code)


def goaway(last_stream_id: int, code: ErrorCode, detail: str = "") -> bytes:
    """GOAWAY: streams above `last_stream_id` were not begun and may be tried elsewhere."""
    text = detail.encode()
    return head(GOAWAY, 0, 0, 8 + len(text)) + _TWO_UINT32.pack(last_stream_id, code) + text


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE: so many more bytes may come; stream 0 is the whole connection."""
    return head(WINDOW_UPDATE, 0, stream_id, 4) + _UINT32.pack(increment)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """PING, or the answer to one."""
    return head(PING, ACK if ack else 0, 0, 8) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """SETTINGS with our values."""
    payload = b"".join(_SETTING.pack(setting, value) for setting, value in values.items())
    return head(SETTINGS, 0, 0, len(payload)) + payload


SETTINGS_ACK: Final = head(SETTINGS, ACK, 0, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Parameter and value, in the order sent; the length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def parse_uint32(payload: bytes) -> int:
    """The number in four bytes."""
    value: int = _UINT32.unpack(payload)[0]
    return value
