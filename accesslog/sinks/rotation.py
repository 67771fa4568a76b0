"""Rotation of a log file by size and time, and the compression of rotated files in a thread of their own."""

import gzip
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Final

import structlog

from common.os_errors import in_words

_log = structlog.get_logger("accesslog")

_CHUNK_BYTES: Final = 256 * 1024
_NICE: Final = 10
"""The compression may take its time: requests come first."""

_PART: Final = ".part"


class Compression(StrEnum):
    """What becomes of a rotated file."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    """Needs the extra `zstd`; a tenth of the time of gzip, and smaller files."""


_SUFFIXES: Final = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is rotated, and what is kept of it."""

    max_bytes: int | None = None
    """Rotate before a batch that would make the file larger."""
    every_seconds: int | None = None
    """Rotate at the first batch after each multiple of this in the time since 1970: 3600 is on the hour."""
    keep: int = 14
    """Rotated files; older ones are deleted."""
    compression: Compression = Compression.NONE


class Rotator:
    """Renames `path` to `path.TIME`, compresses the file, and deletes those beyond `keep`.

    `due` and `rotate` are called in the thread of the sink. A compression that was interrupted is begun
    again by `start`. With `convert`, that is called with each rotated file instead, which is then deleted.
    """

    __slots__ = ("_convert", "_jobs", "_name", "_path", "_pattern", "_rotation", "_thread", "_wall_clock")

    def __init__(
        self,
        path: Path,
        name: str,
        rotation: Rotation,
        wall_clock: Callable[[], float],
        convert: Callable[[Path], None] | None = None,
    ) -> None:
        self._convert = convert
        self._path = path
        self._name = name
        self._rotation = rotation
        self._wall_clock = wall_clock
        self._jobs: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None
        stamp = r"\.[0-9]{8}T[0-9]{6}\.[0-9]{3}Z"
        self._pattern = re.compile(f"{re.escape(path.name)}{stamp}(?:\\.gz|\\.zst)?(?:\\{_PART})?")

    def due(self, size_bytes: int, modified_at: float, more_bytes: int) -> bool:
        """Whether to rotate a file of `size_bytes`, last written at `modified_at`, before `more_bytes`."""
        rotation = self._rotation
        if not size_bytes:
            return False
        if rotation.max_bytes is not None and size_bytes + more_bytes > rotation.max_bytes:
            return True
        every = rotation.every_seconds
        return every is not None and self._wall_clock() // every > modified_at // every

    def rotate(self) -> None:
        """Rename the file. Raises OSError."""
        taken = {path.name.removesuffix(path.suffix) for path in self._rotated()}
        taken |= {path.name for path in self._rotated()}
        time = datetime.fromtimestamp(self._wall_clock(), UTC)
        while (target := self._path.with_name(f"{self._path.name}.{_stamp(time)}")).name in taken:
            time += timedelta(milliseconds=1)  # names sort by age
        self._path.rename(target)
        self.start()

    def start(self) -> None:
        """Compress what is not compressed yet, and delete what is too old, in a thread of its own."""
        if self._thread is None:
            name = f"accesslog {self._name} rotated"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._jobs.put(True)

    def end(self) -> None:
        """Let the thread end. What it is compressing is begun again by the next process."""
        if self._thread is not None:
            self._jobs.put(False)

    def join(self) -> None:
        """End, and wait until everything is compressed."""
        self.end()
        if self._thread is not None:
            self._thread.join()

    # From here on: in the thread.

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while self._jobs.get():
            try:
                self._tidy()
            except OSError as error:
                _log.error(
                    "rotated file not compressed or deleted",
                    sink=self._name,
                    path=str(error.filename or self._path),
                    error=in_words(error),
                )

    def _tidy(self) -> None:
        for path in self._rotated():
            if path.name.endswith(_PART):
                path.unlink(missing_ok=True)
        if self._convert is not None:
            for path in sorted(self._rotated()):
                self._convert(path)
                path.unlink()
            return
        for path in sorted(self._rotated(), reverse=True)[self._rotation.keep :]:
            path.unlink(missing_ok=True)
        suffix = _SUFFIXES[self._rotation.compression]
        if suffix:
            for path in self._rotated():
                if path.suffix not in {".gz", ".zst"}:
                    self._compress(path, path.with_name(path.name + suffix))

    def _rotated(self) -> list[Path]:
        folder = self._path.parent
        return [path for path in folder.iterdir() if self._pattern.fullmatch(path.name)]

    def _compress(self, source: Path, target: Path) -> None:
        part = target.with_name(target.name + _PART)
        mode = source.stat().st_mode & 0o777
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with source.open("rb") as plain, os.fdopen(descriptor, "wb") as file:
                self._copy(plain, file)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        source.unlink()

    def _copy(self, plain: BinaryIO, file: BinaryIO) -> None:
        if self._rotation.compression is Compression.ZSTD:
            import zstandard

            # With the size in the header, so that the size is known and a file that was cut off is refused.
            size = os.fstat(plain.fileno()).st_size
            zstandard.ZstdCompressor(write_checksum=True).copy_stream(
                plain, file, size=size, read_size=_CHUNK_BYTES
            )
        else:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file) as packed:
                shutil.copyfileobj(plain, packed, _CHUNK_BYTES)


def _stamp(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03d}Z"
