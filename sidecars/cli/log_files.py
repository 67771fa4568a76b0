"""Access log files: which there are, and their lines, also compressed and while they grow."""

import gzip
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import orjson
import typer

if TYPE_CHECKING:  # `sidecars logs tail FILE` needs no settings, 0.2 s
    from accesslog.records.formats import Format
    from sidecars.settings.accesslog import AccesslogSettings
    from sidecars.settings.root import Settings

POLL_SECONDS: Final = 0.2

_CHUNK_BYTES: Final = 256 * 1024

LONGEST_LINE: Final = 16 * 1024 * 1024
"""A record has 64 KiB by default; a file without line ends is not an access log."""


def files_of(settings: "Settings") -> list[Path]:
    """Return the files of the file sinks whose lines these commands can read. Raises BadParameter."""
    found = access_logs(settings)
    if not found:
        formats = [written.value for _, written in _file_sinks(settings)]
        text = (
            f"no file sink has `format: sidecars`, which this command reads, but `{formats[0]}`"
            if formats
            else "the settings have no file sink"
        )
        raise typer.BadParameter(text, param_hint="--config")
    return found


def access_logs(settings: "Settings") -> list[Path]:
    """Return the files with `format: sidecars` of the file sinks of every worker, also if there are none."""
    from accesslog.records.formats import Format

    return [path for path, written in _file_sinks(settings) if written is Format.SIDECARS]


def _file_sinks(settings: "Settings") -> list[tuple[Path, "Format"]]:
    from sidecars.settings.sinks import FileSinkSettings, format_of

    return [
        (sink.path, format_of(sink, log.format))
        for log in _logs_of(settings)
        for sink in log.sinks
        if isinstance(sink, FileSinkSettings)
    ]


def decision_logs(settings: "Settings") -> list[Path]:
    """Return the files of authz's decision log that exist."""
    from sidecars.settings.per_worker import for_worker

    found: list[Path] = []
    for worker in range(settings.workers):
        authz = for_worker(settings, worker).authz
        log = None if authz is None else authz.decisions.log
        if log is not None and log.file is not None and log.file.exists():
            found.append(log.file)
    return found


def _logs_of(settings: "Settings") -> Iterator["AccesslogSettings"]:
    """Yield the section accesslog of each worker."""
    from sidecars.settings.per_worker import for_worker

    for worker in range(settings.workers):
        log = for_worker(settings, worker).accesslog
        if log is not None:
            yield log


def with_rotated(files: Sequence[Path]) -> list[Path]:
    """Return `files` with their rotated predecessors, the newest first; only those that exist."""
    found: list[Path] = []
    for file in files:
        older = [
            path for path in file.parent.glob(f"{_escaped(file.name)}.*") if not path.name.endswith(".part")
        ]
        older.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        found += [path for path in (file, *older) if path.is_file()]
    return list(dict.fromkeys(found))


def lines_of(file: Path) -> Iterator[bytes]:
    """Yield the lines of `file`, without their ends. Raises as `open_log`."""
    with open_log(file) as stream:
        while line := stream.readline(LONGEST_LINE):
            yield line.rstrip(b"\n")


def open_log(file: Path) -> IO[bytes]:
    """Return `file`, decompressed. Raises OSError, BadParameter for zstd without the extra."""
    if file.suffix == ".gz":
        return gzip.open(file)  # type: ignore[return-value]  # it has the methods
    if file.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            text = f"{file} needs the extra zstd (in a clone: pip install '.[zstd]')"
            raise typer.BadParameter(text) from None
        import io

        return io.BufferedReader(zstandard.open(file, "rb"), _CHUNK_BYTES)
    return file.open("rb")


def record_in(line: bytes) -> dict[str, Any] | None:
    """Return the record of `line`; None if it is not a JSON object."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def last_lines(file: Path, count: int, end: int | None = None) -> list[bytes]:
    """Return the last `count` lines before the offset `end` of a plain file. Raises OSError."""
    if count <= 0:
        return []
    with file.open("rb") as stream:
        position = stream.seek(0, os.SEEK_END) if end is None else end
        data = b""
        while position and data.count(b"\n") <= count and len(data) < LONGEST_LINE:
            size = min(_CHUNK_BYTES, position)
            position -= size
            stream.seek(position)
            data = stream.read(size) + data
    whole = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return whole[-count:]


class Follower:
    """The lines that are appended to a file, also after a rotation or truncation."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: IO[bytes] | None = None
        self._rest = b""
        self.start = 0
        """The offset of the first line that `lines` returns."""
        self._open(at_end=True)

    def lines(self) -> list[bytes]:
        """Return the whole lines that were appended since the last call."""
        found = self._read()
        if self._replaced():
            found += self._read()  # what was written before it was moved
            self._open(at_end=False)
            found += self._read()
        return found

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def _read(self) -> list[bytes]:
        if self._stream is None:
            return []
        if os.fstat(self._stream.fileno()).st_size < self._stream.tell():
            self._stream.seek(0)
            self._rest = b""
        *whole, self._rest = (self._rest + self._stream.read()).split(b"\n")
        return whole

    def _replaced(self) -> bool:
        try:
            now = self._file.stat()
        except OSError:
            return False
        if self._stream is None:
            return True
        held = os.fstat(self._stream.fileno())
        return (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino)

    def _open(self, *, at_end: bool) -> None:
        self.close()
        self._rest = b""
        try:
            self._stream = self._file.open("rb")
        except FileNotFoundError:
            self._stream = None
            return
        if at_end:
            end = self._stream.seek(0, os.SEEK_END)
            if end:  # a line that is being written is shown once it is whole
                self._stream.seek(max(0, end - LONGEST_LINE))
                data = self._stream.read()
                self._rest = data[data.rfind(b"\n") + 1 :]
            self.start = end - len(self._rest)


def follow(followers: Sequence[Follower]) -> Iterator[bytes]:
    """Yield what is appended to the files of `followers`, for as long as the caller asks."""
    while True:
        quiet = True
        for follower in followers:
            for line in follower.lines():
                quiet = False
                yield line
        if quiet:
            time.sleep(POLL_SECONDS)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
