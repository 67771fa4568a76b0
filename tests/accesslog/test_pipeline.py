import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, LogCounters
from accesslog.sinks.sink import SinkError
from tests.support.sinks import PATIENT, Clock, Mood, MoodySink, Observed, line_batch, pipeline, settle, until

SMALL = replace(PATIENT, queue_entries=2)


@pytest.fixture
def log() -> LogCounters:
    return LogCounters("edge", "http")


def failing(line: Pipeline) -> bool:
    return line.sink_queues[0].failing


async def test_what_is_submitted_is_written_in_order_to_every_sink(log: LogCounters) -> None:
    one, other = MoodySink("one"), MoodySink("other")
    line = pipeline(one, other)
    await line.start()
    line_batches = [line_batch(log, 2) for _ in range(3)]
    for each in line_batches:
        await line.submit(each)
    await line.stop(10)
    expected = [text for each in line_batches for text in each.lines]
    assert one.lines == other.lines == expected
    assert log.written_to == {"one": 6, "other": 6}


async def test_a_sink_gets_many_blocks_in_one_batch_up_to_its_size(log: LogCounters) -> None:
    sink = MoodySink()
    line = pipeline(sink, bounds=replace(PATIENT, batch_bytes=35))
    for _ in range(7):
        await line.submit(line_batch(log))
    await line.start()
    await line.stop(10)
    assert sink.batches == [3, 3, 1]


class TestBackPressure:
    async def test_a_stream_that_finds_no_room_waits_and_loses_nothing(self, log: LogCounters) -> None:
        sink = MoodySink(mood=Mood.HANGS)
        line = pipeline(sink, bounds=SMALL)
        await line.start()
        await line.submit(line_batch(log, 2))
        waiting = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        assert not waiting.done()
        assert line.waiting_streams == 1
        sink.become(Mood.GOOD)
        async with asyncio.timeout(10):
            await waiting
        await line.stop(10)
        assert len(sink.lines) == 3
        assert log.written_to["moody"] == 3
        assert line.waiting_streams == 0

    async def test_bytes_are_bounded_as_entries_are(self, log: LogCounters) -> None:
        line = pipeline(MoodySink(mood=Mood.HANGS), bounds=replace(PATIENT, queue_bytes=25))
        await line.submit(line_batch(log, 2))
        waiting = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        assert not waiting.done()
        waiting.cancel()

    async def test_a_block_larger_than_the_queue_passes_when_it_is_empty(self, log: LogCounters) -> None:
        sink = MoodySink()
        line = pipeline(sink, bounds=SMALL)
        await line.start()
        async with asyncio.timeout(10):
            await line.submit(line_batch(log, 5))
            await line.submit(line_batch(log, 5))
        await line.stop(10)
        assert len(sink.lines) == 10

    async def test_streams_are_served_in_the_order_they_came(self, log: LogCounters) -> None:
        """Small batches do not overtake a large one forever."""
        sink = MoodySink(mood=Mood.HANGS)
        line = pipeline(sink, bounds=replace(SMALL, batch_bytes=1))
        await line.start()
        await line.submit(line_batch(log))
        large = asyncio.create_task(line.submit(line_batch(log, 2)))
        await settle()
        small = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        assert not small.done()
        sink.become(Mood.GOOD)
        async with asyncio.timeout(10):
            await asyncio.gather(large, small)
        await line.stop(10)
        assert [text[:1] for text in sink.lines] == [b"0", b"1", b"1", b"3"]

    async def test_a_stream_cancelled_while_it_waits_counts_what_it_held(self, log: LogCounters) -> None:
        line = pipeline(MoodySink(mood=Mood.HANGS), bounds=SMALL)
        await line.start()
        await line.submit(line_batch(log, 2))
        waiting = asyncio.create_task(line.submit(line_batch(log, 2)))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert log.dropped == {DropReason.STREAM_CANCELLED: 2}
        assert line.waiting_streams == 0
        await line.stop(0)

    async def test_a_stream_that_has_gone_leaves_what_there_is_room_for(self, log: LogCounters) -> None:
        sink = MoodySink()
        line = pipeline(sink, bounds=SMALL)
        for _ in range(3):
            line.offer(line_batch(log))
        assert log.dropped == {DropReason.STREAM_CANCELLED: 1}
        await line.start()
        await line.stop(10)
        assert len(sink.lines) == 2


class TestSeveralSinks:
    async def test_a_sink_that_hangs_does_not_stop_another(self, log: LogCounters) -> None:
        slow, fast = MoodySink("slow", Mood.HANGS), MoodySink("fast")
        line = pipeline(slow, fast, bounds=SMALL)
        await line.start()
        for _ in range(10):
            await line.submit(line_batch(log))
            await settle()
        assert len(fast.lines) == 10
        assert log.dropped_by == {("slow", DropReason.QUEUE_FULL): 8}
        await line.stop(0)
        assert log.dropped_by["slow", DropReason.SHUTDOWN] == 2

    async def test_streams_wait_for_one_that_is_required(self, log: LogCounters) -> None:
        slow, fast = MoodySink("slow", Mood.HANGS), MoodySink("fast")
        line = pipeline(slow, fast, bounds=SMALL, required=["slow"])
        await line.start()
        await line.submit(line_batch(log, 2))
        await settle()
        waiting = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        assert not waiting.done()
        slow.become(Mood.GOOD)
        async with asyncio.timeout(10):
            await waiting
        await line.stop(10)
        assert log.written_to == {"slow": 3, "fast": 3}

    async def test_streams_wait_when_none_has_room(self, log: LogCounters) -> None:
        one, other = MoodySink("one", Mood.HANGS), MoodySink("other", Mood.HANGS)
        line = pipeline(one, other, bounds=SMALL)
        await line.start()
        await line.submit(line_batch(log, 2))
        waiting = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        assert not waiting.done()
        other.become(Mood.GOOD)
        async with asyncio.timeout(10):
            await waiting
        await line.stop(0.01)
        assert log.written_to["other"] == 3
        assert log.dropped_by["one", DropReason.QUEUE_FULL] == 1


class TestFailure:
    async def test_is_retried_until_it_is_over(self, log: LogCounters) -> None:
        sink, observed = MoodySink(mood=Mood.FULL), Observed()
        line = pipeline(sink, observed=observed)
        await line.start()
        await line.submit(line_batch(log))
        await until(lambda: sink.attempts >= 3)
        assert failing(line)
        sink.become(Mood.GOOD)
        await line.stop(10)
        assert len(sink.lines) == 1
        assert not failing(line)
        assert observed.failures[:3] == [("moody", DropReason.DISK_FULL)] * 3
        assert len(observed.writes) == 1

    async def test_beyond_its_time_drops_the_batch_with_the_reason(self, log: LogCounters) -> None:
        sink, clock = MoodySink(mood=Mood.FULL), Clock()
        line = pipeline(sink, clock=clock)
        await line.start()
        await line.submit(line_batch(log))
        await settle()
        clock.now = PATIENT.retry_timeout_seconds
        with capture_logs() as logs:
            await until(lambda: line.sink_queues[0].entries == 0)
        assert log.dropped_by == {("moody", DropReason.DISK_FULL): 1}
        assert {"event": "entries dropped", "sink": "moody", "reason": "disk_full", "entries": 1} in [
            {key: value for key, value in entry.items() if key != "log_level"} for entry in logs
        ]
        await line.stop(10)

    async def test_that_lasts_is_tried_once_a_batch_so_that_envoy_is_read_again(
        self, log: LogCounters
    ) -> None:
        sink, clock = MoodySink(mood=Mood.FULL), Clock()
        line = pipeline(sink, clock=clock)
        await line.start()
        await line.submit(line_batch(log))
        await settle()
        clock.now = PATIENT.retry_timeout_seconds
        await until(lambda: line.sink_queues[0].entries == 0)
        before = sink.attempts
        await line.submit(line_batch(log))
        await until(lambda: line.sink_queues[0].entries == 0)
        assert sink.attempts - before == 1
        await line.stop(10)

    async def test_that_no_retry_helps_drops_at_once(self, log: LogCounters) -> None:
        sink = MoodySink(mood=Mood.BROKEN)
        line = pipeline(sink)
        await line.start()
        await line.submit(line_batch(log))
        await line.stop(10)
        assert sink.attempts == 1
        assert log.dropped_by == {("moody", DropReason.BROKEN_PIPE): 1}

    async def test_by_a_defect_of_the_sink_does_not_end_its_task(self, log: LogCounters) -> None:
        sink = MoodySink(mood=Mood.DEFECT)
        line = pipeline(sink)
        await line.start()
        await line.submit(line_batch(log))
        await until(lambda: line.sink_queues[0].entries == 0)
        sink.become(Mood.GOOD)
        await line.submit(line_batch(log))
        await line.stop(10)
        assert log.dropped_by == {("moody", DropReason.SINK_DEFECT): 1}
        assert log.written_to["moody"] == 1

    async def test_a_failure_to_open_does_not_prevent_the_start(self, log: LogCounters) -> None:
        sink = MoodySink(mood=Mood.BROKEN)
        line = pipeline(sink)
        await line.start()
        assert failing(line)
        sink.become(Mood.GOOD)
        await line.submit(line_batch(log))
        await line.stop(10)
        assert len(sink.lines) == 1
        assert not failing(line)

    @pytest.mark.parametrize("mood", [Mood.FULL, Mood.BROKEN, Mood.DEFECT])
    async def test_that_is_over_is_seen_although_no_entry_comes(self, log: LogCounters, mood: Mood) -> None:
        """An idle worker once reported for hours that its disk was full."""
        sink, clock = MoodySink(mood=mood), Clock()
        line = pipeline(sink, clock=clock)
        with capture_logs() as logs:
            await line.start()
            await line.submit(line_batch(log))
            await settle()
            clock.now = PATIENT.retry_timeout_seconds
            await until(lambda: line.sink_queues[0].entries == 0)
            checked = sink.checked
            await until(lambda: sink.checked > checked + 2)
            assert failing(line)
            sink.become(Mood.GOOD)
            await until(lambda: not failing(line))
        assert logs[-1]["event"] == "sink recovered"
        checked = sink.checked
        await settle()
        assert sink.checked == checked  # a working sink is not checked
        await line.stop(10)

    async def test_to_reopen_shows_until_it_is_open_again(self, log: LogCounters) -> None:
        sink = MoodySink()
        line = pipeline(sink)
        await line.start()
        sink.become(Mood.FULL)
        await line.reopen()
        assert failing(line)
        sink.become(Mood.GOOD)
        await line.submit(line_batch(log))
        await until(lambda: not failing(line))
        await line.stop(10)


class TestStop:
    async def test_writes_what_is_queued_and_closes(self, log: LogCounters) -> None:
        sink = MoodySink()
        line = pipeline(sink)
        await line.start()
        for _ in range(100):
            await line.submit(line_batch(log))
        await line.stop(10)
        assert len(sink.lines) == 100
        assert sink.closed

    async def test_lets_a_waiting_stream_finish(self, log: LogCounters) -> None:
        sink = MoodySink(mood=Mood.HANGS)
        line = pipeline(sink, bounds=SMALL)
        await line.start()
        await line.submit(line_batch(log, 2))
        waiting = asyncio.create_task(line.submit(line_batch(log)))
        await settle()
        stopping = asyncio.create_task(line.stop(10))
        await settle()
        sink.become(Mood.GOOD)
        async with asyncio.timeout(10):
            await asyncio.gather(waiting, stopping)
        assert len(sink.lines) == 3

    async def test_does_not_wait_for_a_sink_that_hangs_and_counts_what_it_held(
        self, log: LogCounters
    ) -> None:
        sink = MoodySink(mood=Mood.HANGS)
        line = pipeline(sink)
        await line.start()
        await line.submit(line_batch(log, 3))
        await line.stop(0.01)
        assert sink.closed
        assert log.dropped_by == {("moody", DropReason.SHUTDOWN): 3}
        assert log.in_flight("moody") == 0

    async def test_that_is_cancelled_still_closes_and_counts(self, log: LogCounters) -> None:
        """The runtime bounds the wait with drain.flush_seconds."""
        sink = MoodySink(mood=Mood.HANGS)
        line = pipeline(sink)
        await line.start()
        await line.submit(line_batch(log))
        stopping = asyncio.create_task(line.stop(60))
        await settle()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert sink.closed
        assert log.in_flight("moody") == 0

    async def test_counts_what_is_submitted_afterwards(self, log: LogCounters) -> None:
        line = pipeline(MoodySink())
        await line.start()
        await line.stop(1)
        await line.submit(line_batch(log))
        assert log.dropped_by == {("moody", DropReason.SHUTDOWN): 1}


async def test_reopening_asks_every_sink_whatever_one_of_them_answers() -> None:
    full, good = MoodySink("full", Mood.FULL), MoodySink("good")
    line = pipeline(full, good)
    await line.reopen()
    assert (full.reopened, good.reopened) == (1, 1)


def test_a_pipeline_without_a_sink_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="needs a sink"):
        pipeline()


class TestPartOfABatch:
    """A sink whose server took the first lines and refused the next one."""

    async def test_that_arrived_is_not_sent_again(self, log: LogCounters) -> None:
        sink = HalfwaySink(failures=2)
        line = pipeline(sink)
        await line.submit(line_batch(log, 10))
        await line.start()
        await line.stop(10)
        assert sink.attempted == [10, 7, 4]
        assert len(sink.lines) == len(set(sink.lines)) == 10
        assert log.written_to["moody"] == 10

    async def test_that_arrived_counts_as_written_and_the_rest_as_dropped(self, log: LogCounters) -> None:
        sink = HalfwaySink(failures=1, retry=False)
        line = pipeline(sink)
        await line.submit(line_batch(log, 2))
        await line.submit(line_batch(log, 2))
        await line.start()
        await line.stop(10)
        assert log.written_to["moody"] == 3
        assert log.dropped_by == {("moody", DropReason.REFUSED): 1}
        assert log.in_flight("moody") == 0


class HalfwaySink(MoodySink):
    def __init__(self, failures: int, *, retry: bool = True) -> None:
        super().__init__()
        self.failures = failures
        self.retry = retry
        self.attempted: list[int] = []

    async def write(self, lines: Sequence[bytes]) -> None:
        self.attempted.append(len(lines))
        if len(self.attempted) <= self.failures:
            self.lines += lines[:3]
            raise SinkError(DropReason.REFUSED, "enough", retry=self.retry, written=3)
        await super().write(lines)
