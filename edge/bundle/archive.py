"""Writes and reads the tar.gz of a bundle.

An archive is read before its signature can be checked, so the reader knows plain files only, takes every
number from the header with a bound, and never writes to the disk. It reads what OPA, Go, Python and GNU tar
write (POSIX.1-2001 `pax`, GNU long names).
"""

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edge.bundle.errors import BundleError, Fault
from edge.bundle.names import check_folders, checked_name

_BLOCK: Final = 512
_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_HEADER: Final = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255))
"""RFC 1952 section 2.3: deflate, no name, no time, best compression, unknown system."""

_FILE: Final = frozenset({b"0", b"\0", b"7"})
_FOLDER: Final = b"5"
_PAX, _PAX_GLOBAL, _GNU_LONG_NAME = b"x", b"g", b"L"
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
}

MAX_HEADER_BYTES: Final = 8192
"""The longest extended header: room for a name of 1,024 bytes and a few other fields."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest bundle that is read."""

    packed_bytes: int = 16 * 1024 * 1024
    """As it is fetched. A policy of 10,000 rules has about 100 KB."""
    unpacked_bytes: int = 64 * 1024 * 1024
    """The tar inside, held in memory while it is checked. Deflate packs zeros a thousandfold."""
    files: int = 10_000
    """Files and folders."""


DEFAULT_BOUNDS: Final = Bounds()


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the tar.gz of `files`: the same bytes for the same files, with the same release of zlib."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)  # of mode 0644, owner 0, and the time 0
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    content = packed.getvalue()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    trailer = zlib.crc32(content).to_bytes(4, "little") + (len(content) & 0xFFFF_FFFF).to_bytes(4, "little")
    return _GZIP_HEADER + deflate.compress(content) + deflate.flush() + trailer


def unpack(archive: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> dict[str, bytes]:
    """Return the files in the archive by name. Raises BundleError."""
    if len(archive) > bounds.packed_bytes:
        raise BundleError(Fault.TOO_LARGE, f"more than {bounds.packed_bytes} bytes")
    files: dict[str, bytes] = {}
    for count, (written, content) in enumerate(_entries(_inflated(archive, bounds.unpacked_bytes)), 1):
        if count > bounds.files:
            raise BundleError(Fault.TOO_LARGE, f"more than {bounds.files} files")
        if content is None:
            continue
        name = checked_name(written)
        if name in files:
            raise BundleError(Fault.UNREADABLE, f"{name!r} is there twice")
        files[name] = content
    check_folders(files)
    return files


def _inflated(archive: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(_GZIP)
    try:
        content = inflate.decompress(archive, max_bytes + 1)
    except zlib.error:
        raise BundleError(Fault.UNREADABLE, "not a gzip file, or a damaged one") from None
    if len(content) > max_bytes:
        raise BundleError(Fault.TOO_LARGE, f"more than {max_bytes} bytes when unpacked")
    if not inflate.eof:
        raise BundleError(Fault.UNREADABLE, "the gzip file is cut short")
    if inflate.unused_data:
        raise BundleError(Fault.UNREADABLE, "more bytes follow after the end of the gzip file")
    return content


def _entries(tar: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield the name and content of each file, and None as the content of a folder."""
    at = 0
    long_name: str | None = None
    while True:
        header = tar[at : at + _BLOCK]
        if len(header) < _BLOCK:
            raise BundleError(Fault.UNREADABLE, "the tar file is cut short")
        if not any(header):
            return
        _check_sum(header)
        kind, size = header[156:157], _number(header[124:136])
        content = tar[at + _BLOCK : at + _BLOCK + size]
        if len(content) < size:
            raise BundleError(Fault.UNREADABLE, "the tar file is cut short")
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
        if kind in {_PAX, _GNU_LONG_NAME}:
            if size > MAX_HEADER_BYTES:
                raise BundleError(
                    Fault.UNREADABLE, f"an extended header of more than {MAX_HEADER_BYTES} bytes"
                )
            found = _text(content) if kind == _GNU_LONG_NAME else _pax_path(content)
            long_name = found or long_name
        elif kind != _PAX_GLOBAL:
            name, long_name = long_name or _name(header), None
            if kind not in _FILE and kind != _FOLDER:
                what = _KINDS.get(kind, f"an entry of the unknown kind {kind!r}")
                raise BundleError(Fault.UNREADABLE, f"{name!r} is {what}; a bundle holds plain files only")
            yield name, None if kind == _FOLDER else content


def _check_sum(header: bytes) -> None:
    """Raise BundleError unless the sum of the bytes is the one in the header, which counts as spaces."""
    if sum(header) - sum(header[148:156]) + 8 * 0x20 != _number(header[148:156]):
        raise BundleError(Fault.UNREADABLE, "not a tar file, or a damaged one")


def _number(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits or digits.strip(b"01234567"):  # no base-256 sizes: they begin at 8 GiB
        raise BundleError(Fault.UNREADABLE, "not a tar file, or a damaged one")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    try:
        return field.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        raise BundleError(Fault.UNREADABLE, "a file name is not UTF-8") from None


def _pax_path(content: bytes) -> str | None:
    """Return the `path` of an extended header, if it has one.

    POSIX.1-2001: records of the form `LENGTH KEY=VALUE`, each with a line feed at its end.
    """
    path = None
    at = 0
    while at < len(content):
        length, space, _ = content[at : at + 8].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(content) - at:
            raise BundleError(Fault.UNREADABLE, "a damaged extended header")
        key, _, value = content[at + len(length) + 1 : at + int(length)].partition(b"=")
        at += int(length)
        if key == b"path":
            path = _text(value.removesuffix(b"\n"))
        elif key == b"size" or key.startswith(b"GNU.sparse"):
            raise BundleError(Fault.UNREADABLE, "an extended header changes the size of a file")
    return path
