"""A queue with a spool: nothing is lost, nothing changes its order, and every entry is counted once."""

import asyncio
import tempfile
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from accesslog.records.counters import DropReason
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.spooling import SpoolBounds
from accesslog.spool.frames import HEADER_BYTES
from tests.support.sinks import PATIENT, Mood, line_batch, until
from tests.support.spooled import QUICK, Spooled, segments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def put_strange_segment(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "00000001.spool"
    path.write_bytes(b"of another program, twenty bytes and more")
    return path


class TestAway:
    async def test_moves_to_the_disk_at_the_first_failure_and_is_replayed_in_order(
        self, folder: Path
    ) -> None:
        spooled = Spooled(folder, Mood.FULL)
        await spooled.start()
        for _ in range(50):
            await spooled.send(3)
        await spooled.on_disk(150)
        spooled.check()
        spooled.sink.become(Mood.GOOD)
        await until(lambda: len(spooled.sink.lines) == 150)
        await spooled.line.stop(10)
        assert spooled.sink.lines == spooled.sent
        assert spooled.log.written_to["moody"] == 150
        assert not segments(folder)

    async def test_drops_nothing_however_long_it_lasts(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.FULL)
        await spooled.start()
        await spooled.send(3)
        await spooled.on_disk(3)
        spooled.clock.now = PATIENT.retry_timeout_seconds * 100
        attempts = spooled.sink.attempts
        await until(lambda: spooled.sink.attempts > attempts + 3)
        assert not spooled.log.dropped_by
        spooled.sink.become(Mood.GOOD)
        await until(lambda: spooled.sink.lines == spooled.sent)
        await spooled.line.stop(10)

    async def test_a_batch_that_the_sink_refuses_for_ever_is_dropped_and_the_next_goes_on(
        self, folder: Path
    ) -> None:
        spooled = Spooled(folder, Mood.FULL)
        await spooled.start()
        await spooled.send(3)
        await spooled.on_disk(3)
        spooled.sink.become(Mood.BROKEN)
        await until(lambda: spooled.log.dropped_by.total() == 3)
        assert spooled.log.dropped_by == {("moody", DropReason.BROKEN_PIPE): 3}
        await until(lambda: not spooled.spool.active)
        spooled.sink.become(Mood.GOOD)
        await spooled.send()
        await until(lambda: len(spooled.sink.lines) == 1)
        spooled.check()
        await spooled.line.stop(10)


class TestSlow:
    async def test_what_waits_for_longer_than_the_interval_is_on_disk(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.HANGS)
        await spooled.start()
        for _ in range(5):
            await spooled.send(2)
        await spooled.on_disk(10)
        spooled.check()
        spooled.sink.become(Mood.GOOD)
        await until(lambda: spooled.sink.lines == spooled.sent)
        await spooled.on_disk(0)
        await spooled.line.stop(10)
        assert spooled.log.written_to["moody"] == 10

    async def test_a_queue_that_is_half_full_moves_at_once(self, folder: Path) -> None:
        spooled = Spooled(
            folder,
            Mood.HANGS,
            bounds=replace(PATIENT, queue_entries=10),
            spool_bounds=SpoolBounds(sync_seconds=60),
        )
        await spooled.start()
        active = []
        for entries in (5, 1):
            await spooled.send(entries)
            active.append(spooled.spool.active)
        assert active == [False, True]
        await spooled.on_disk(6)
        assert not spooled.log.dropped_by
        await spooled.line.stop(0)

    async def test_a_sink_that_keeps_up_never_touches_the_disk(self, folder: Path) -> None:
        spooled = Spooled(folder)
        await spooled.start()
        for _ in range(30):
            await spooled.send(2)
            await until(lambda: spooled.sink.lines == spooled.sent)
        assert not spooled.spool.active
        assert not segments(folder)
        await spooled.line.stop(10)


class TestFull:
    async def test_loses_what_finds_no_room_as_spool_full_while_another_sink_goes_on(
        self, folder: Path
    ) -> None:
        spooled = Spooled(folder, Mood.FULL, spool_bounds=replace(QUICK, max_bytes=4000))
        await spooled.start()
        with capture_logs() as logs:
            for _ in range(100):
                await spooled.send(10)
                await until(lambda: not spooled.queue.entries)
            await spooled.line.stop(0)
        assert spooled.spool.size_bytes <= 4000
        dropped = spooled.log.dropped_by["moody", DropReason.SPOOL_FULL]
        assert dropped == 1000 - spooled.spool.entries > 0
        assert len(spooled.other.lines) == 1000
        said = [log for log in logs if log["event"] == "entries dropped"]
        assert {log["reason"] for log in said} == {"spool_full"}
        assert sum(log["entries"] for log in said) == dropped

    async def test_stops_the_streams_where_the_sink_is_required(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.FULL, spool_bounds=replace(QUICK, max_bytes=4000))
        spooled.queue.required = True
        await spooled.start()

        async def send_all() -> None:
            for _ in range(300):
                await spooled.send(10)
                await asyncio.sleep(0.001)

        sending = asyncio.create_task(send_all())
        await until(lambda: spooled.line.waiting_streams == 1)
        assert spooled.spool.size_bytes <= 4000 + 5 * HEADER_BYTES  # those of segments are not counted before
        assert not spooled.log.dropped_by
        spooled.sink.become(Mood.GOOD)
        await asyncio.wait_for(sending, 30)
        await until(lambda: spooled.sink.lines == spooled.sent)
        await spooled.line.stop(10)

    async def test_the_headers_of_batches_that_are_written_at_once_count(self, folder: Path) -> None:
        spooled = Spooled(folder, Mood.HANGS, spool_bounds=SpoolBounds(max_bytes=4000, sync_seconds=60))
        spooled.queue.required = True
        await spooled.start()
        for _ in range(200):  # they wait in memory, and then move to the disk in one write
            await spooled.send(1)
        await spooled.line.stop(0.01)
        assert 3900 <= spooled.spool.size_bytes <= 4000 + HEADER_BYTES  # that of the segment


class TestRestart:
    async def test_what_was_left_is_delivered_first_by_the_next_process(self, folder: Path) -> None:
        before = Spooled(folder, Mood.FULL)
        await before.start()
        for _ in range(10):
            await before.send(3)
        with capture_logs() as logs:
            await before.line.stop(0.01)
        assert not before.log.dropped_by
        assert before.spool.entries == 30
        assert {
            "event": "entries left in the spool",
            "sink": "moody",
            "entries": 30,
            "log_level": "info",
        } in logs
        before.check()
        after = Spooled(folder)
        await after.line.submit(line_batch(after.log, 2, line_bytes=30))
        await after.start()
        await until(lambda: len(after.sink.lines) == 32 and not after.spool.active)
        assert after.sink.lines[:30] == before.sent
        assert after.log.recovered == {"moody": 30}
        assert after.log.written_to["moody"] == 32
        after.check()
        await after.line.stop(10)
        assert not segments(folder)

    async def test_a_write_that_hangs_at_the_end_is_kept_too(self, folder: Path) -> None:
        before = Spooled(folder, Mood.HANGS, spool_bounds=SpoolBounds(sync_seconds=60))
        await before.start()
        await before.send(3)
        await before.line.stop(0.01)
        assert not before.log.dropped_by
        after = Spooled(folder)
        await after.start()
        await until(lambda: after.sink.lines == before.sent)
        await after.line.stop(10)

    async def test_a_torn_end_is_cut_counted_and_said(self, folder: Path) -> None:
        before = Spooled(folder, Mood.FULL)
        await before.start()
        await before.send(3)
        await before.line.stop(0.01)
        [segment] = segments(folder)
        with segment.open("ab") as file:
            file.write(b"\x40\x00\x00\x00torn")
        after = Spooled(folder)
        with capture_logs() as logs:
            await after.start()
        assert after.spool.cut_bytes == 8
        assert logs[0]["event"] == "torn end of the spool cut off"
        assert logs[0]["file"] == str(segment)
        await until(lambda: after.sink.lines == before.sent)
        await after.line.stop(10)

    async def test_a_file_of_another_version_is_named_and_the_sink_serves(self, folder: Path) -> None:
        strange = put_strange_segment(folder)
        spooled = Spooled(folder)
        with capture_logs() as logs:
            await spooled.start()
        assert spooled.spool.left_aside == 1
        assert logs[0]["event"] == "spool file left aside"
        assert logs[0]["file"] == str(strange)
        await spooled.send()
        await until(lambda: spooled.sink.lines == spooled.sent)
        await spooled.line.stop(10)
        assert segments(folder) == [strange]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 30)),
        st.tuples(st.just("become"), st.sampled_from([Mood.GOOD, Mood.FULL, Mood.HANGS])),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.001, 0.03])),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_every_entry_arrives_once_in_order_over_restarts(todo: list[tuple[str, Any]]) -> None:
    async def run(folder: Path) -> None:
        numbers = count()
        sent: list[bytes] = []
        arrived: list[bytes] = []
        spooled = Spooled(folder)
        await spooled.start()

        async def stop() -> None:
            await spooled.line.stop(0)
            spooled.check()
            assert not spooled.log.dropped_by
            arrived.extend(spooled.sink.lines)

        for step, value in [*todo, ("become", Mood.GOOD)]:
            if step == "send":
                lines = tuple(b"%d\n" % number for number in islice(numbers, value))
                sent += lines
                spooled.log.received += value
                await spooled.line.submit(LineBatch(spooled.log, lines, sum(map(len, lines))))
            elif step == "become":
                spooled.sink.become(value)
            elif step == "pass":
                await asyncio.sleep(value)
            else:
                await stop()
                spooled = Spooled(folder, spooled.sink.mood)
                await spooled.start()
        await until(lambda: not spooled.queue.entries and not spooled.spool.entries)
        await stop()
        assert arrived == sent

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name) / "spool"))
