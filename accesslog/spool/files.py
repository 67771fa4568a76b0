"""The segments of a spool in one folder: append at the end, read and delete from the front.

Every call blocks, and all are made in one thread.
"""

import fcntl
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from accesslog.spool import frames
from accesslog.spool.frames import DamagedError, Frame

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Space is freed a segment at a time; larger ones would not be faster."""

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640
"""As for access log files: the owner writes, a group of log readers reads."""

_NAME: Final = re.compile(r"[0-9]{8,}\.spool")

Logs = Counter[tuple[str, str]]
"""Entries by the name and the kind of their log."""


@dataclass(slots=True)
class Opened:
    """What `SpoolFiles.open` found of an earlier process."""

    entries: Logs = field(default_factory=Counter)
    """Entries that are delivered now."""
    cut: list[tuple[Path, int]] = field(default_factory=list)
    """Segments that ended in a torn frame, and the bytes that were cut off."""
    left_aside: list[tuple[Path, str]] = field(default_factory=list)
    """Files that are not segments of this version, and why. They stay as they are."""


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    size_bytes: int
    entries: Logs
    """Entries that are not delivered yet."""


class InUseError(OSError):
    """Another process has the spool open."""


class SpoolFiles:
    """An ordered queue of frames in `folder`.

    What `append` returned survives the end of the process; what was synced survives the machine. A frame is
    delivered again only if the process is killed between its delivery and `commit`.
    """

    __slots__ = ("_descriptor", "_folder", "_lock", "_offset", "_segment_bytes", "_segments", "_unsynced")

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._offset = frames.HEADER_BYTES
        """Where in the first segment the next frame to deliver begins."""
        self._descriptor: int | None = None
        """The last segment, once this process has appended to it."""
        self._lock: int | None = None
        self._unsynced = False

    @property
    def size_bytes(self) -> int:
        """The bytes of all segments on disk."""
        return sum(segment.size_bytes for segment in self._segments)

    def open(self) -> Opened:
        """Lock the folder, read all of it, and cut off what was torn. Raises OSError, InUseError."""
        self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self._take_lock()
        found = Opened()
        names = sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        place = self._read_cursor()
        self._segments, self._offset = [], frames.HEADER_BYTES
        for path in sorted(names, key=_number_of):
            number = _number_of(path)
            data = path.read_bytes()
            if len(data) < frames.HEADER_BYTES:
                found.cut.append((path, len(data)))
                path.unlink()
            elif (version := frames.version_in(data)) != frames.VERSION:
                found.left_aside.append((path, _why_not(version)))
            elif place is not None and number < place[0]:
                path.unlink()  # delivered
            else:
                self._take(path, data, place if place and place[0] == number else None, found)
        if not self._segments:  # else it would be taken for a place in a segment to come
            (self._folder / "cursor").unlink(missing_ok=True)
        return found

    def append(self, batch: Sequence[Frame]) -> None:
        """Write `batch` at the end, all of it or nothing. Raises OSError."""
        data = b"".join(map(frames.encode, batch))
        entries = _entries_by_log(batch)
        if self._descriptor is None or self._segments[-1].size_bytes >= self._segment_bytes:
            self._begin_segment()
        segment, descriptor = self._segments[-1], self._descriptor
        assert descriptor is not None  # noqa: S101  # _begin_segment has opened it or raised
        try:
            _write_all(descriptor, data)
        except OSError:
            os.ftruncate(descriptor, segment.size_bytes)
            raise
        segment.size_bytes += len(data)
        segment.entries += entries
        self._unsynced = True

    def read(self, max_bytes: int) -> list[Frame]:
        """The oldest frames, at least one if there is any, up to about `max_bytes` and one segment.

        Raises DamagedError if the disk no longer has what was written, OSError.
        """
        result: list[Frame] = []
        if not self._segments:
            return result
        segment = self._segments[0]
        data = self._read_bytes(segment, max_bytes)
        offset = 0
        while offset < len(data):
            try:
                frame, offset = frames.decode(data, offset)
            except DamagedError:
                if result:
                    break  # cut off by `max_bytes`, or damaged, which the next call finds
                raise
            result.append(frame)
        return result

    def commit(self, delivered: Sequence[Frame]) -> None:
        """Take `delivered`, the oldest frames, off the queue. Raises OSError."""
        for frame in delivered:
            segment = self._segments[0]
            self._offset += frames.encoded_bytes(frame)
            segment.entries[frame.log_name, frame.kind] -= len(frame.lines)
            self._drop_first_if_done()
        self._write_cursor()

    def drop_damaged(self) -> Logs:
        """Give up what is left of the first segment; the entries that were in it."""
        segment = self._segments[0]
        self._offset = segment.size_bytes
        self._drop_first_if_done()
        with suppress(OSError):  # a failing disk must not end the sink: the next commit writes the cursor
            self._write_cursor()
        return segment.entries

    def sync(self) -> None:
        """Force to disk what was appended. Raises OSError."""
        if self._unsynced and self._descriptor is not None:
            os.fsync(self._descriptor)
        self._unsynced = False

    def close(self) -> None:
        """Sync and close; another process may then open the folder. Raises OSError."""
        try:
            self.sync()
        finally:
            for descriptor in (self._descriptor, self._lock):
                if descriptor is not None:
                    os.close(descriptor)
            self._descriptor = self._lock = None

    def _read_bytes(self, segment: _Segment, max_bytes: int) -> bytes:
        try:
            with segment.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(max(max_bytes, frames.FRAME_BYTES))
                # The first frame may be longer than `max_bytes`.
                if (needed := frames.size_of(data, 0)) > len(data):
                    data += file.read(needed - len(data))
                return data
        except FileNotFoundError:
            raise DamagedError from None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise InUseError("another process has this spool open") from None
            raise
        self._lock = descriptor

    def _take(self, path: Path, data: bytes, place: tuple[int, int] | None, found: Opened) -> None:
        start = frames.HEADER_BYTES if place is None else place[1]
        end = min(start, len(data))
        entries: Logs = Counter()
        while end < len(data):
            try:
                frame, end = frames.decode(data, end)
            except DamagedError:
                break
            entries[frame.log_name, frame.kind] += len(frame.lines)
        if end < len(data):
            found.cut.append((path, len(data) - end))
            os.truncate(path, end)
        if not entries:
            path.unlink()
            return
        if not self._segments:
            self._offset = start
        found.entries += entries
        self._segments.append(_Segment(_number_of(path), path, end, entries))

    def _begin_segment(self) -> None:
        self.sync()
        number = max(map(_number_of, filter(_is_segment, self._folder.iterdir())), default=0) + 1
        path = self._folder / f"{number:08d}.spool"
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE
        )
        try:
            _write_all(descriptor, frames.header(number))
            _sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        if not self._segments:
            self._offset = frames.HEADER_BYTES
        self._segments.append(_Segment(number, path, frames.HEADER_BYTES, Counter()))

    def _drop_first_if_done(self) -> None:
        segment = self._segments[0]
        if self._offset < segment.size_bytes:
            return
        self._segments.pop(0)
        with suppress(OSError):  # the cursor says that it was delivered
            segment.path.unlink()
        self._offset = frames.HEADER_BYTES
        if not self._segments and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self._unsynced = None, False

    def _read_cursor(self) -> tuple[int, int] | None:
        try:
            return frames.place_in((self._folder / "cursor").read_bytes())
        except FileNotFoundError:
            return None

    def _write_cursor(self) -> None:
        file = self._folder / "cursor"
        if not self._segments:
            file.unlink(missing_ok=True)
            return
        # One short write in place: a killed process leaves the old or the new one.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(descriptor, frames.cursor(self._segments[0].number, self._offset))
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _entries_by_log(batch: Sequence[Frame]) -> Logs:
    entries: Logs = Counter()
    for frame in batch:
        entries[frame.log_name, frame.kind] += len(frame.lines)
    return entries


def _is_segment(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None


def _number_of(path: Path) -> int:
    return int(path.stem)


def _why_not(version: int | None) -> str:
    if version is None:
        return "it does not begin as a segment of a spool"
    return f"it has version {version} of the format, and this program reads {frames.VERSION}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
