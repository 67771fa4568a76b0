"""The bytes of a spool: a header for each segment, then one frame for each batch of lines.

All numbers are little-endian. Header: magic, version, number of the segment, CRC32C of these. Frame: length
of the payload, number of lines, CRC32C of these and the payload. Payload: lengths of kind and name of the
log, kind, name, lines.
"""

import struct
from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
"""A spool of another version is left as it is: see `SpoolFiles.open`."""

_MAGIC: Final = b"ALSPOOL\n"
_HEADER: Final = struct.Struct("<8sIQ")
_FRAME: Final = struct.Struct("<II")
_CRC: Final = struct.Struct("<I")
_NAMES: Final = struct.Struct("<BH")
_CURSOR: Final = struct.Struct("<QQ")

HEADER_BYTES: Final = _HEADER.size + _CRC.size
FRAME_BYTES: Final = _FRAME.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Frame:
    """The lines of one log that arrived together."""

    log_name: str
    kind: str
    lines: tuple[bytes, ...]


class DamagedError(Exception):
    """These bytes are not a whole frame: the process was killed while it wrote, or the disk changed them."""


def header(number: int) -> bytes:
    """The first bytes of segment `number`."""
    return _with_crc(_HEADER.pack(_MAGIC, VERSION, number))


def version_in(data: bytes) -> int | None:
    """The version that the first bytes of a segment name; None if they are not those of a segment."""
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC) or not _has_crc(data[:HEADER_BYTES]):
        return None
    version: int = _HEADER.unpack_from(data)[1]
    return version


def encode(frame: Frame) -> bytes:
    """`frame` as it is written."""
    kind, name = frame.kind.encode(), frame.log_name.encode()
    payload = b"".join((_NAMES.pack(len(kind), len(name)), kind, name, *frame.lines))
    head = _FRAME.pack(len(payload), len(frame.lines))
    crc = _crc32c(head, payload)
    return b"".join((head, _CRC.pack(crc), payload))


def encoded_bytes(frame: Frame) -> int:
    """The length of `frame` as it is written."""
    return overhead_bytes(frame.log_name, frame.kind) + sum(map(len, frame.lines))


def overhead_bytes(log_name: str, kind: str) -> int:
    """How much longer a frame of this log is than its lines."""
    return FRAME_BYTES + _NAMES.size + len(kind.encode()) + len(log_name.encode())


def size_of(data: bytes, offset: int) -> int:
    """The bytes of the frame at `offset`, which may be cut off. Raises DamagedError before its length."""
    if offset + FRAME_BYTES > len(data):
        raise DamagedError
    length: int = _FRAME.unpack_from(data, offset)[0]
    return FRAME_BYTES + length


def decode(data: bytes, offset: int) -> tuple[Frame, int]:
    """The frame at `offset`, and the offset after it. Raises DamagedError."""
    end = offset + size_of(data, offset)
    if end > len(data):
        raise DamagedError
    payload = data[offset + FRAME_BYTES : end]
    head = data[offset : offset + _FRAME.size]
    (crc,) = _CRC.unpack_from(data, offset + _FRAME.size)
    if _crc32c(head, payload) != crc:
        raise DamagedError
    kind_bytes, name_bytes = _NAMES.unpack_from(payload)
    name_at = _NAMES.size + kind_bytes
    lines_at = name_at + name_bytes
    kind, name = payload[_NAMES.size : name_at].decode(), payload[name_at:lines_at].decode()
    lines = tuple(line + b"\n" for line in payload[lines_at:].split(b"\n")[:-1])
    return Frame(name, kind, lines), end


def cursor(number: int, offset: int) -> bytes:
    """The place up to which a spool was delivered, as it is written."""
    return _with_crc(_CURSOR.pack(number, offset))


def place_in(data: bytes) -> tuple[int, int] | None:
    """The segment and the offset in the bytes of a cursor; None if they are damaged."""
    if len(data) != _CURSOR.size + _CRC.size or not _has_crc(data):
        return None
    number, offset = _CURSOR.unpack_from(data)
    return number, offset


def _with_crc(data: bytes) -> bytes:
    return data + _CRC.pack(_crc32c(data))


def _has_crc(data: bytes) -> bool:
    (crc,) = _CRC.unpack_from(data, len(data) - _CRC.size)
    return bool(_crc32c(data[: -_CRC.size]) == crc)


def _crc32c(data: bytes, more: bytes = b"") -> int:
    """CRC-32C (RFC 3720 appendix B.4) of `data` followed by `more`."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return int(google_crc32c.extend(crc, more) if more else crc)
