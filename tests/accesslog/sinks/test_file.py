# ruff: noqa: ASYNC240  # a test may wait for its own small file
import asyncio
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from accesslog.records.counters import DropReason
from accesslog.sinks import file as file_module
from accesslog.sinks.file import FileSink, Fsync
from accesslog.sinks.sink import SinkError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


@pytest_asyncio.fixture
async def sink(path: Path) -> AsyncIterator[FileSink]:
    sink = FileSink(path)
    yield sink
    await sink.close()


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """A write beyond the limit is partial, and the next one fails (setrlimit(2), RLIMIT_FSIZE)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_lines_are_appended_to_what_is_there(path: Path, sink: FileSink) -> None:
    path.write_bytes(b"before\n")
    await sink.write([b"one\n", b"two\n"])
    await sink.write([b"three\n"])
    assert path.read_bytes() == b"before\none\ntwo\nthree\n"


async def test_a_new_file_is_not_readable_by_everyone(path: Path, sink: FileSink) -> None:
    await sink.open()
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


async def test_a_line_left_unfinished_by_a_killed_process_is_ended_first(path: Path, sink: FileSink) -> None:
    path.write_bytes(b'{"cut')
    await sink.write([b"one\n"])
    assert path.read_bytes() == b'{"cut\none\n'


class TestRotation:
    async def test_by_rename_leads_to_a_new_file(self, path: Path, sink: FileSink) -> None:
        await sink.write([b"one\n"])
        path.rename(path.with_suffix(".1"))
        await sink.write([b"two\n"])
        assert path.with_suffix(".1").read_bytes() == b"one\n"
        assert path.read_bytes() == b"two\n"

    async def test_by_rename_and_create_leads_to_the_file_created(self, path: Path, sink: FileSink) -> None:
        await sink.write([b"one\n"])
        path.rename(path.with_suffix(".1"))
        path.touch()
        await sink.write([b"two\n"])
        assert path.read_bytes() == b"two\n"

    async def test_by_copy_and_truncate_goes_on_at_the_new_end(self, path: Path, sink: FileSink) -> None:
        await sink.write([b"one\n"])
        os.truncate(path, 0)
        await sink.write([b"two\n"])
        assert path.read_bytes() == b"two\n"

    async def test_of_a_deleted_file_creates_it_again(self, path: Path, sink: FileSink) -> None:
        await sink.write([b"one\n"])
        path.unlink()
        await sink.write([b"two\n"])
        assert path.read_bytes() == b"two\n"

    async def test_reopen_lets_go_of_the_old_file_at_once(self, path: Path, sink: FileSink) -> None:
        """A compressed and deleted file frees its space although nothing more is logged."""
        await sink.open()
        old = path.with_suffix(".1")
        path.rename(old)
        await sink.reopen()
        held = [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]
        assert old not in held
        assert path in held


class TestFullDisk:
    async def test_is_named_and_may_be_retried(self, path: Path, sink: FileSink) -> None:
        path.symlink_to("/dev/full")
        with pytest.raises(SinkError) as caught:
            await sink.write([b"one\n"])
        assert caught.value.reason is DropReason.DISK_FULL
        assert caught.value.retry
        assert str(path) in str(caught.value)

    async def test_is_over_when_there_is_room_again(self, path: Path, sink: FileSink) -> None:
        path.symlink_to("/dev/full")
        with pytest.raises(SinkError):
            await sink.write([b"one\n"])
        path.unlink()
        await sink.write([b"one\n"])
        assert path.read_bytes() == b"one\n"

    async def test_in_the_middle_of_a_batch_takes_the_batch_back(self, path: Path, sink: FileSink) -> None:
        await sink.write([b"one\n"])
        with files_no_larger_than(10), pytest.raises(SinkError) as caught:
            await sink.write([b"two\n", b"three\n", b"four\n"])
        assert caught.value.reason is DropReason.IO_ERROR
        assert path.read_bytes() == b"one\n"
        await sink.write([b"two\n", b"three\n", b"four\n"])
        assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


class TestCheck:
    async def test_a_full_device_is_reported(self, path: Path, sink: FileSink) -> None:
        path.symlink_to("/dev/full")
        with pytest.raises(SinkError) as caught:
            await sink.check()
        assert caught.value.reason is DropReason.DISK_FULL
        path.unlink()
        await sink.check()

    async def test_a_full_file_system_is_reported_and_nothing_is_written(
        self, path: Path, sink: FileSink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await sink.write([b"one\n"])
        free = {"f_bavail": 1, "f_frsize": 4096}
        monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(**free))
        with pytest.raises(SinkError) as caught:
            await sink.check()
        assert caught.value.reason is DropReason.DISK_FULL
        free["f_bavail"] = 1000
        await sink.check()
        assert path.read_bytes() == b"one\n"

    async def test_a_missing_folder_is_reported_until_it_exists(self, tmp_path: Path) -> None:
        sink = FileSink(tmp_path / "later" / "access.jsonl")
        with pytest.raises(SinkError):
            await sink.check()
        (tmp_path / "later").mkdir()
        await sink.check()
        await sink.close()


async def test_a_folder_that_is_missing_is_an_error_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "later" / "access.jsonl"
    sink = FileSink(path)
    with pytest.raises(SinkError) as caught:
        await sink.open()
    assert caught.value.reason is DropReason.IO_ERROR
    path.parent.mkdir()
    await sink.write([b"one\n"])
    assert path.read_bytes() == b"one\n"
    await sink.close()


async def test_a_fifo_without_a_reader_is_an_error_and_does_not_hang(path: Path, sink: FileSink) -> None:
    os.mkfifo(path)
    with pytest.raises(SinkError):
        await sink.open()


class Syncs:
    """Counts os.fsync, because a test cannot see whether data reached the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.happened = asyncio.Event()
        self._real = os.fsync
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr("os.fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self._real(descriptor)
        self.count += 1
        self._loop.call_soon_threadsafe(self.happened.set)


class TestFsync:
    async def test_never_leaves_it_to_the_kernel(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        syncs = Syncs(monkeypatch)
        sink = FileSink(path, fsync=Fsync.NEVER)
        await sink.write([b"one\n"])
        await sink.close()
        assert syncs.count == 0

    async def test_batch_syncs_before_the_write_returns(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        syncs = Syncs(monkeypatch)
        sink = FileSink(path, fsync=Fsync.BATCH)
        for expected in (1, 2):
            await sink.write([b"one\n"])
            assert syncs.count == expected
        await sink.close()

    async def test_interval_syncs_what_was_written_last_without_another_write(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        syncs = Syncs(monkeypatch)
        sink = FileSink(path, fsync=Fsync.INTERVAL, fsync_seconds=0.01, clock=lambda: 0.0)
        await sink.write([b"one\n"])
        await sink.write([b"two\n"])
        assert syncs.count == 0
        async with asyncio.timeout(10):
            await syncs.happened.wait()
        await sink.close()

    async def test_interval_syncs_with_the_write_that_is_due(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        syncs = Syncs(monkeypatch)
        now = 0.0
        sink = FileSink(path, fsync=Fsync.INTERVAL, fsync_seconds=60, clock=lambda: now)
        await sink.write([b"one\n"])
        assert syncs.count == 0
        now = 60.0
        await sink.write([b"two\n"])
        assert syncs.count == 1
        await sink.close()

    async def test_closing_syncs_what_is_left(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        syncs = Syncs(monkeypatch)
        sink = FileSink(path, fsync=Fsync.INTERVAL, fsync_seconds=60, clock=lambda: 0.0)
        await sink.write([b"one\n"])
        await sink.close()
        assert syncs.count >= 1


async def test_closing_returns_though_the_disk_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(file_module, "CLOSE_SECONDS", 0.01)
    fifo = tmp_path / "hang"
    os.mkfifo(fifo)
    sink = FileSink(path)
    await sink.open()
    hanging = asyncio.create_task(sink._thread.call(fifo.read_bytes))
    await asyncio.sleep(0)
    await sink.close()
    with fifo.open("wb"):
        pass
    assert await hanging == b""


async def test_an_unreachable_file_does_not_stop_the_sink_from_closing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "none" / "access.jsonl")
    await sink.close()
