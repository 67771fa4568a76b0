"""Parquet files, partitioned by day and hour, made from a file of JSON lines. Needs the extra `parquet`.

Lines are first appended to a staging file in the folder, because a Parquet file can be read only once it is
complete. When the staging file is rotated, another process converts it: `python -m accesslog.sinks.parquet`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from accesslog.records.fields import FIELDS
from accesslog.sinks.descriptor import WriterThread
from accesslog.sinks.file import FileSink, Fsync
from accesslog.sinks.rotation import Rotation

STAGING: Final = ".staging.jsonl"
"""Hidden: pyarrow and Spark take every other file in the folder for Parquet."""

CONVERT_SECONDS: Final = 600.0
"""A staging file of 64 MiB takes seconds; this only ends a conversion that hangs."""

_FOLDER_MODE: Final = 0o750
_CHUNK_LINES: Final = 5_000
_MAX_PARTITIONS: Final = 48
"""Open files of one conversion. The time of an entry is that of Envoy's clock, which may be wrong."""

_OTHER: Final = ("other", "other")
_LARGEST: Final = 2**63 - 1
_TIMES: Final = frozenset({"time", "receive_time"})
_JSON_LISTS: Final = frozenset({"ratelimit_descriptors"})
"""Lists of objects, written as JSON text as the maps are."""


class ParquetSink:
    """Appends to a staging file in `folder`, and has it converted whenever `rotation` says."""

    __slots__ = ("_file", "_folder", "_thread", "name")

    def __init__(
        self,
        folder: Path,
        rotation: Rotation,
        name: str = "parquet",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._folder = folder
        self._thread = WriterThread(f"accesslog {name} folder")
        self._file = FileSink(
            folder / STAGING,
            name,
            fsync=Fsync.INTERVAL,
            clock=clock,
            rotation=rotation,
            wall_clock=wall_clock,
            convert=self._convert,
        )

    async def open(self) -> None:
        """Create the folder, and convert what an earlier process left. Raises SinkError."""
        await self._thread.call(self._make_folder)
        await self._file.open()

    async def write(self, lines: Sequence[bytes]) -> None:
        """Append all of `lines` to the staging file. Raises SinkError."""
        await self._file.write(lines)

    async def check(self) -> None:
        """Look whether there is room. Raises SinkError."""
        await self._thread.call(self._make_folder)
        await self._file.check()

    async def reopen(self) -> None:
        """Open the staging file again. Raises SinkError."""
        await self._file.reopen()

    async def close(self) -> None:
        """Close the staging file. What is in it is converted after the next start."""
        self._thread.end()
        await self._file.close()

    def _make_folder(self) -> None:
        with suppress(OSError):  # opening the file says why
            self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)

    def _convert(self, rotated: Path) -> None:
        """Convert `rotated` in another process, so that no request waits for it. Raises OSError."""
        command = (sys.executable, "-P", "-m", "accesslog.sinks.parquet", str(rotated), str(self._folder))
        try:
            done = subprocess.run(  # noqa: S603  # our own program
                command,
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=CONVERT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{rotated}: the conversion took too long") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise OSError(f"{rotated}: {lines[-1]}")


def convert(source: Path, folder: Path) -> int:
    """Write the lines of `source` to `folder/day=.../hour=.../NAME.parquet`; the number of records.

    Each file appears once it is complete. The same source gives the same names, so that a repeated conversion
    replaces its files. Lines that are not records are left out. Raises OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(pa, name, kind)) for name, (kind, _) in FIELDS.items()])
    stem = source.name.removeprefix(f"{STAGING}.")
    writers: dict[tuple[str, str], tuple[Path, Any]] = {}
    count = 0
    try:
        with source.open("rb") as file:
            while lines := list(islice(file, _CHUNK_LINES)):
                for key, records in _by_partition(lines, writers.keys()).items():
                    if key not in writers:
                        part = _part_file(folder, key, stem)
                        writers[key] = part, pq.ParquetWriter(part, schema, compression="zstd")
                    columns = [
                        pa.array(
                            [_value(kind, name, record.get(name)) for record in records],
                            schema.field(name).type,
                        )
                        for name, (kind, _) in FIELDS.items()
                    ]
                    writers[key][1].write_table(pa.Table.from_arrays(columns, schema=schema))
                    count += len(records)
        for _, writer in writers.values():
            writer.close()
    except BaseException:
        for part, writer in writers.values():
            with suppress(Exception):
                writer.close()
            part.unlink(missing_ok=True)
        raise
    for part, _ in writers.values():
        part.rename(part.with_name(f"{stem}.parquet"))
    return count


def _by_partition(
    lines: Sequence[bytes], known: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in _records(lines):
        key = _partition(record)
        if key not in known and key not in found and len(known) + len(found) >= _MAX_PARTITIONS:
            key = _OTHER
        found.setdefault(key, []).append(record)
    return found


def _records(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def _partition(record: Mapping[str, Any]) -> tuple[str, str]:
    text = record.get("time")
    # RFC 3339 in UTC, as in 2026-11-29T13:05:00.123456Z.
    return (text[:10], text[11:13]) if isinstance(text, str) and len(text) > 13 else _OTHER


def _part_file(folder: Path, key: tuple[str, str], stem: str) -> Path:
    target = folder / f"day={key[0]}" / f"hour={key[1]}"
    target.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    # Hidden from readers of the folder, and not shared with a conversion that another process left running.
    return target / f".{stem}.{os.getpid()}.part"


def _arrow_type(pa: Any, name: str, kind: str) -> Any:
    if name in _TIMES:
        return pa.timestamp("us", tz="UTC")
    if kind == "list" and name not in _JSON_LISTS:
        return pa.list_(pa.string())
    return {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}.get(kind, pa.string())


def _value(kind: str, name: str, value: Any) -> Any:
    """`value` in the type of its column; None if it has another type."""
    if value is None:
        return None
    if name in _TIMES:
        return _moment(value)
    if kind == "map" or name in _JSON_LISTS:
        return orjson.dumps(value).decode()
    if kind == "text":
        return value if isinstance(value, str) else str(value)
    if kind == "list":
        return [str(one) for one in value] if isinstance(value, list) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind == "number":
        return float(value)
    return max(-_LARGEST, min(value, _LARGEST)) if isinstance(value, int) else None


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def main(arguments: Sequence[str]) -> int:
    """Convert one staging file. Returns the exit code."""
    os.nice(10)
    source, folder = map(Path, arguments)
    try:
        convert(source, folder)
    except (OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
