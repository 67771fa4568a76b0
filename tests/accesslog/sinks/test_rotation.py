# ruff: noqa: ASYNC240  # a test may wait for its own small file
import asyncio
import gzip
import os
from pathlib import Path

import pytest
import zstandard
from structlog.testing import capture_logs

from accesslog.records.counters import DropReason
from accesslog.sinks.file import FileSink
from accesslog.sinks.rotation import Compression, Rotation
from accesslog.sinks.sink import SinkError
from tests.support.sinks import until
from tests.support.small_disk import small_disk

__all__ = ["small_disk"]

HOUR = 3600
NOON = 1_790_000_000 // HOUR * HOUR + 0.25
"""On the hour, 2026-09-21T14:00:00.250Z."""


class Wall:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


def sink(path: Path, wall: Wall, rotation: Rotation) -> FileSink:
    return FileSink(path, rotation=rotation, wall_clock=wall)


def rotated(path: Path) -> list[Path]:
    return sorted(one for one in path.parent.iterdir() if one != path)


def plain(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompress(data)
    return data


async def test_a_file_is_never_larger_than_its_size_and_no_line_is_lost(path: Path) -> None:
    wall = Wall()
    one = sink(path, wall, Rotation(max_bytes=100, keep=1000))
    lines = [b"%04d is a line of text\n" % number for number in range(200)]
    for line in lines:
        wall.now += 0.001
        await one.write([line])
    await one.close()
    files = [*rotated(path), path]
    assert all(file.stat().st_size <= 100 for file in files)
    assert b"".join(map(plain, files)) == b"".join(lines)
    assert files[0].name == "access.jsonl.20260921T140000.255Z"


async def test_files_of_one_moment_have_names_in_their_order(path: Path) -> None:
    one = sink(path, Wall(), Rotation(max_bytes=5, keep=1000))
    for _ in range(4):
        await one.write([b"12345\n"])
    await one.close()
    assert [file.name[-5:] for file in rotated(path)] == [".250Z", ".251Z", ".252Z"]


async def test_time_rotates_at_its_multiples_also_over_a_restart(path: Path) -> None:
    wall = Wall()
    rotation = Rotation(every_seconds=HOUR, keep=1000)
    one = sink(path, wall, rotation)
    await one.write([b"first\n"])
    os.utime(path, (wall.now, wall.now))
    wall.now += HOUR - 1
    await one.write([b"of the same hour\n"])
    os.utime(path, (wall.now, wall.now))
    await one.close()
    assert rotated(path) == []
    wall.now += 1
    two = sink(path, wall, rotation)
    await two.write([b"next hour\n"])
    await two.close()
    assert path.read_bytes() == b"next hour\n"
    assert [file.read_bytes() for file in rotated(path)] == [b"first\nof the same hour\n"]


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
async def test_rotated_files_are_compressed_and_the_tools_read_them(
    path: Path, compression: Compression
) -> None:
    wall = Wall()
    one = sink(path, wall, Rotation(max_bytes=1000, compression=compression))
    lines = [b"%04d %s\n" % (number, b"word " * 20) for number in range(40)]
    path.touch(0o600)
    for line in lines:
        wall.now += 0.001
        await one.write([line])
    assert one._rotator is not None
    await one.close()
    one._rotator.join()
    files = rotated(path)
    assert {file.suffix for file in files} == {".gz" if compression is Compression.GZIP else ".zst"}
    assert b"".join(map(plain, [*files[-4:], path])) in b"".join(lines)
    assert files[0].stat().st_mode & 0o777 == 0o600
    if compression is Compression.GZIP:
        tested = await asyncio.create_subprocess_exec("gzip", "-t", *map(str, files))
        assert await tested.wait() == 0


async def test_only_the_newest_are_kept_and_other_files_are_left_alone(path: Path) -> None:
    others = [path.with_name(name) for name in ("access.jsonl.1", "access.jsonl.old.gz", "other.jsonl")]
    for other in others:
        other.write_text("")
    wall = Wall()
    one = sink(path, wall, Rotation(max_bytes=5, keep=2))
    for number in range(6):
        wall.now += 1
        await one.write([b"%d...\n" % number])
    assert one._rotator is not None
    await one.close()
    one._rotator.join()
    assert [plain(file) for file in rotated(path) if file not in others] == [b"3...\n", b"4...\n"]
    assert all(other.exists() for other in others)


async def test_an_interrupted_compression_is_begun_again(path: Path) -> None:
    done = path.with_name("access.jsonl.20260921T130000.000Z")
    done.write_bytes(b"rotated before\n")
    done.with_name(done.name + ".gz.part").write_bytes(b"half")
    one = sink(path, Wall(), Rotation(max_bytes=100, compression=Compression.GZIP))
    await one.open()
    await until(lambda: [file.name for file in rotated(path)] == [done.name + ".gz"])
    assert plain(rotated(path)[0]) == b"rotated before\n"
    await one.close()


async def test_a_folder_that_does_not_let_files_be_renamed_costs_no_line(path: Path) -> None:
    one = sink(path, Wall(), Rotation(max_bytes=5))
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:

        def refuse(_self: Path, _target: Path) -> None:
            raise PermissionError(1, "not permitted")

        patch.setattr(Path, "rename", refuse)
        for _ in range(3):
            await one.write([b"12345\n"])
    assert path.read_bytes() == b"12345\n" * 3
    assert [log["event"] for log in logs] == ["file not rotated"]
    await one.write([b"12345\n"])
    assert path.read_bytes() == b"12345\n"
    await one.close()


@pytest.mark.parametrize("target", ["/dev/null"])
async def test_what_is_no_file_is_not_rotated(path: Path, target: str) -> None:
    path.symlink_to(target)
    one = sink(path, Wall(), Rotation(max_bytes=5))
    for _ in range(3):
        await one.write([b"12345\n"])
    await one.close()
    assert rotated(path) == []


async def test_a_full_disk_takes_whole_batches_only_and_recovers(small_disk: Path) -> None:
    path = small_disk / "access.jsonl"
    one = FileSink(path)
    batch = [b"x" * 999 + b"\n"] * 100
    written = 0
    error: SinkError | None = None
    while error is None:
        try:
            await one.write(batch)
            written += 1
        except SinkError as caught:
            error = caught
    assert error.reason is DropReason.DISK_FULL
    assert path.stat().st_size == written * 100_000
    with pytest.raises(SinkError):
        await one.check()
    path.rename(small_disk / "old")
    (small_disk / "old").unlink()
    await one.check()
    await one.write(batch)
    assert path.read_bytes() == b"".join(batch)
    await one.close()


async def test_a_disk_too_full_to_compress_keeps_the_plain_file(small_disk: Path) -> None:
    path = small_disk / "access.jsonl"
    one = sink(path, Wall(), Rotation(max_bytes=600_000, compression=Compression.GZIP))
    with capture_logs() as logs:
        await one.write([os.urandom(400_000).replace(b"\n", b" ") + b"\n"])
        await one.write([os.urandom(400_000).replace(b"\n", b" ") + b"\n"])
        await until(lambda: any(log["event"] == "rotated file not compressed or deleted" for log in logs))
    assert [file.stat().st_size for file in rotated(path)] == [400_001]
    await one.close()
