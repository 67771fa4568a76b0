"""JSON lines appended to a file that log rotation may move away at any time."""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from accesslog.sinks.descriptor import WriterThread, check_writable, sink_error, write_all
from accesslog.sinks.rotation import Rotation, Rotator
from accesslog.sinks.sink import CLOSE_SECONDS
from common.os_errors import in_words

_log = structlog.get_logger("accesslog")

FILE_MODE: Final = 0o640
"""Access logs hold personal data: the owner writes, a group of log readers reads."""


class Fsync(StrEnum):
    """When lines are forced to disk. The policies differ only when the machine fails."""

    NEVER = "never"
    """When the kernel sees fit, within about 30 seconds."""
    INTERVAL = "interval"
    """At most `fsync_seconds` after they were written."""
    BATCH = "batch"
    """Before they count as written."""


class FileSink:
    """Appends to `path`, as its only writer; reopens it when it was moved or replaced, and on `reopen`.

    With a `rotation` it also renames the file itself, and compresses those that it renamed, or hands them to
    `convert`.

    A batch that fails halfway (disk full) is taken back by truncating to where it began, so that a retry
    neither tears a line nor writes one twice. All calls to the kernel happen in the sink's own thread.
    """

    __slots__ = (
        "_clock",
        "_descriptor",
        "_fsync",
        "_fsync_seconds",
        "_identity",
        "_mode",
        "_path",
        "_pending_sync",
        "_rotation_failed",
        "_rotator",
        "_synced_at",
        "_thread",
        "_torn",
        "name",
    )

    def __init__(
        self,
        path: Path,
        name: str = "file",
        *,
        mode: int = FILE_MODE,
        fsync: Fsync = Fsync.NEVER,
        fsync_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        rotation: Rotation | None = None,
        wall_clock: Callable[[], float] = time.time,
        convert: Callable[[Path], None] | None = None,
    ) -> None:
        self.name = name
        self._path = path
        self._mode = mode
        self._fsync = fsync
        self._fsync_seconds = fsync_seconds
        self._clock = clock
        self._rotation_failed = False
        self._rotator = None if rotation is None else Rotator(path, name, rotation, wall_clock, convert)
        self._thread = WriterThread(f"accesslog {name}")
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._torn = False
        self._synced_at = clock()
        self._pending_sync: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open or create the file. Raises SinkError."""
        if self._rotator is not None:
            self._rotator.start()
        await self._thread.call(self._open_if_needed)

    async def write(self, lines: Sequence[bytes]) -> None:
        """Append all of `lines`, or none. Raises SinkError."""
        unsynced = await self._thread.call(self._append, lines)
        if unsynced and self._pending_sync is None:
            self._pending_sync = asyncio.create_task(self._sync_later())

    async def check(self) -> None:
        """Open the file where it is not; look whether there is room. Raises SinkError."""
        await self._thread.call(self._check)

    async def reopen(self) -> None:
        """Close the file and open the path again. Raises SinkError."""
        await self._thread.call(self._reopen)

    async def close(self) -> None:
        """Close the file, synced unless `fsync` is `never`; leave a disk that hangs alone after a second."""
        if self._pending_sync is not None:
            self._pending_sync.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._thread.call(self._close)
        except TimeoutError:
            _log.error("file not closed in time", sink=self.name, path=str(self._path))
        finally:
            self._thread.end()
            if self._rotator is not None:
                self._rotator.end()

    async def _sync_later(self) -> None:
        await asyncio.sleep(self._fsync_seconds)
        self._pending_sync = None
        await self._thread.call(self._sync_rest)

    # From here on: in the thread.

    def _append(self, lines: Sequence[bytes]) -> bool:
        """Append; whether a sync is still due."""
        self._open_if_needed()
        data = b"".join((b"\n", *lines)) if self._torn else b"".join(lines)
        if self._rotator is not None and self._rotated(self._rotator, len(data)):
            data = b"".join(lines)
        descriptor = self._descriptor
        assert descriptor is not None  # noqa: S101  # _open_if_needed has opened it or raised
        try:
            began_at = os.fstat(descriptor).st_size
        except OSError as error:
            raise sink_error(error, str(self._path)) from error
        try:
            write_all(descriptor, data)
            synced = self._sync_if_due(descriptor)
        except OSError as error:
            self._take_back(descriptor, began_at)
            raise sink_error(error, str(self._path)) from error
        self._torn = False
        return self._fsync is Fsync.INTERVAL and not synced

    def _rotated(self, rotator: Rotator, more_bytes: int) -> bool:
        """Rotate the file if that is due before `more_bytes`; whether it was. Raises SinkError."""
        assert self._descriptor is not None  # noqa: S101  # as above
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or not rotator.due(found.st_size, found.st_mtime, more_bytes):
            return False
        try:
            rotator.rotate()
        except OSError as error:
            # Better one large file than no log.
            if not self._rotation_failed:
                self._rotation_failed = True
                _log.error("file not rotated", sink=self.name, path=str(self._path), error=in_words(error))
            return False
        self._rotation_failed = False
        self._reopen()
        return True

    def _check(self) -> None:
        self._open_if_needed()
        assert self._descriptor is not None  # noqa: S101  # as above
        try:
            check_writable(self._descriptor)
        except OSError as error:
            raise sink_error(error, str(self._path)) from error

    def _take_back(self, descriptor: int, began_at: int) -> None:
        """Undo a part of a batch. A file that is now shorter was truncated by a rotation: it stays so."""
        try:
            end = os.fstat(descriptor).st_size
            if end > began_at:
                os.ftruncate(descriptor, began_at)
            elif 0 < end < began_at:
                self._torn = True
        except OSError:
            self._torn = True

    def _open_if_needed(self) -> None:
        if self._descriptor is not None and self._moved_away():
            self._let_go()
        if self._descriptor is None:
            # O_NONBLOCK: a FIFO without a reader is an error to report, not a reason to hang.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            try:
                self._descriptor = os.open(self._path, flags, self._mode)
                found = os.fstat(self._descriptor)
            except OSError as error:
                raise sink_error(error, str(self._path)) from error
            self._identity = (found.st_dev, found.st_ino)
            self._torn = stat.S_ISREG(found.st_mode) and _ends_within_a_line(self._path, found.st_size)

    def _moved_away(self) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _reopen(self) -> None:
        self._let_go()
        self._open_if_needed()

    def _close(self) -> None:
        self._sync_rest()
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._fsync is not Fsync.NEVER:
                os.fsync(descriptor)
            os.close(descriptor)
        except OSError as error:
            _log.error("file not closed cleanly", sink=self.name, path=str(self._path), error=in_words(error))

    def _sync_if_due(self, descriptor: int) -> bool:
        """Sync as the policy has it. Whether everything written is on disk."""
        now = self._clock()
        if self._fsync is Fsync.BATCH or (
            self._fsync is Fsync.INTERVAL and now - self._synced_at >= self._fsync_seconds
        ):
            os.fsync(descriptor)
            self._synced_at = now
            return True
        return False

    def _sync_rest(self) -> None:
        if self._descriptor is None or self._fsync is Fsync.NEVER:
            return
        try:
            os.fsync(self._descriptor)
            self._synced_at = self._clock()
        except OSError as error:
            _log.error("file not synced", sink=self.name, path=str(self._path), error=in_words(error))


def _ends_within_a_line(path: Path, size_bytes: int) -> bool:
    """Whether the last line is unfinished, as a process that was killed leaves it."""
    if not size_bytes:
        return False
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
