"""A spool whose disk refuses, is full, or loses what was written."""

import contextlib
import shutil
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from accesslog.records.counters import DropReason
from accesslog.sinks import spooling
from accesslog.spool.files import Opened, SpoolFiles
from tests.support.sinks import Mood, until
from tests.support.small_disk import small_disk
from tests.support.spooled import Spooled, segments

__all__ = ["small_disk"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")


class TestBrokenDisk:
    async def test_at_the_start_the_sink_serves_without_a_spool_until_there_is_one(
        self, tmp_path: Path
    ) -> None:
        spooled = Spooled(tmp_path / "no" / "spool")
        with capture_logs() as logs:
            await spooled.start()
        assert logs[0]["event"] == "spool cannot be opened"
        assert logs[0]["error"] == "no such file or folder"
        await spooled.send()
        await until(lambda: spooled.sink.lines == spooled.sent)
        (tmp_path / "no").mkdir()
        spooled.clock.now += 10
        await spooled.send()
        await spooled.send()
        await until(lambda: spooled.spool.is_open)
        assert not spooled.spool.failing
        await spooled.line.stop(10)
        assert spooled.sink.lines == spooled.sent

    async def test_later_keeps_the_entries_in_memory_and_in_order(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.FULL)
        await spooled.start()
        replace_by_file(folder)
        with capture_logs() as logs:
            await spooled.send(3)
            await until(lambda: spooled.spool.failing)
        assert logs[-1]["event"] in {"spool cannot be written", "sink fails"}
        assert spooled.queue.entries == 3
        await spooled.send(3)
        spooled.sink.become(Mood.GOOD)
        await until(lambda: spooled.sink.lines == spooled.sent)
        spooled.check()
        await spooled.line.stop(10)
        assert not spooled.log.dropped_by

    async def test_that_damages_a_segment_is_counted_and_said(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.FULL, segment_bytes=100)
        await spooled.start()
        for _ in range(6):
            await spooled.send(3)
            await until(lambda: not spooled.queue.entries)
        for segment in segments(folder)[1:]:
            segment.unlink()
        with capture_logs() as logs:
            spooled.sink.become(Mood.GOOD)
            await until(lambda: not spooled.spool.active)
        lost = spooled.log.dropped_by["moody", DropReason.SPOOL_DAMAGED]
        assert lost == 18 - len(spooled.sink.lines) > 0
        assert "spool damaged, entries lost" in [log["event"] for log in logs]
        spooled.check()
        await spooled.line.stop(10)


class TestSlowDisk:
    async def test_at_the_start_delays_the_sink_only_so_long_and_is_not_asked_twice(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = Spooled(folder, Mood.FULL)
        await before.start()
        await before.send(3)
        await before.line.stop(0.01)
        monkeypatch.setattr(spooling, "OPEN_SECONDS", 0.01)
        answer, asked = threading.Event(), []
        real = SpoolFiles.open

        def slow(files: SpoolFiles) -> Opened:
            asked.append(files)
            answer.wait(30)
            return real(files)

        monkeypatch.setattr(SpoolFiles, "open", slow)
        spooled = Spooled(folder)
        with capture_logs() as logs:
            await spooled.start()
            await spooled.send(2)
            await until(lambda: len(spooled.sink.lines) == 2)
            spooled.clock.now += 10
            await spooled.send(2)
            await until(lambda: len(spooled.sink.lines) == 4)
            answer.set()
            spooled.clock.now += 10
            await spooled.send(2)
            await until(lambda: len(spooled.sink.lines) == 9 and not spooled.spool.active)
        assert len(asked) == 1
        assert [log["event"] for log in logs if "spool" in log["event"]] == [
            "spool cannot be opened",
            "entries recovered from the spool",
            "spool works again",
        ]
        assert logs[0]["error"] == "no answer in time"
        assert sorted(spooled.sink.lines) == sorted(before.sent + spooled.sent)
        spooled.check()
        await spooled.line.stop(10)


class TestFullDisk:
    async def test_keeps_entries_in_memory_and_goes_on_once_there_is_room(self, small_disk: Path) -> None:
        spooled = Spooled(small_disk / "spool", Mood.FULL, segment_bytes=1_000_000)
        await spooled.start()
        filler = fill(small_disk)
        with capture_logs() as logs:
            for _ in range(20):
                await spooled.send(100)
            await until(lambda: spooled.spool.failing)
        assert {"the disk is full"} == {log["error"] for log in logs if log["event"].startswith("spool")}
        assert spooled.queue.entries + spooled.spool.entries == 2000
        spooled.check()
        filler.unlink()
        await until(lambda: not spooled.queue.entries)
        assert not spooled.spool.failing
        spooled.sink.become(Mood.GOOD)
        await until(lambda: spooled.sink.lines == spooled.sent)
        assert not spooled.log.dropped_by
        await spooled.line.stop(10)

    async def test_at_the_start_leaves_the_sink_without_a_spool(self, small_disk: Path) -> None:
        fill(small_disk)
        spooled = Spooled(small_disk / "spool")
        await spooled.start()
        await spooled.send(3)
        await until(lambda: spooled.sink.lines == spooled.sent)
        await spooled.line.stop(10)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler
