"""received = sampled_out + dropped + written{sink} + dropped{sink} + in flight{sink}, in every case."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.decoder import BATCH_ENTRIES, EntryDecoder, Rules
from accesslog.records.redact import Redaction
from accesslog.records.sample import Sampling
from protos.accesslog_data_pb2 import HTTPAccessLogEntry
from tests.support.entries import http_entry, message, tcp_entry
from tests.support.sinks import PATIENT, Clock, Mood, MoodySink, pipeline, settle

SINKS = ("one", "two")
BOUNDS = replace(PATIENT, queue_entries=20, batch_bytes=5_000)


@dataclass(frozen=True, slots=True)
class Send:
    """A stream sends a message with entries of each kind."""

    good: int
    erring: int
    bad_time: int
    odd_text: int
    log_name: str | None
    tcp: bool


@dataclass(frozen=True, slots=True)
class Become:
    """A sink changes its behaviour."""

    sink: int
    mood: Mood


@dataclass(frozen=True, slots=True)
class Cancel:
    """The oldest stream ends."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Time passes and every task that can run does so."""

    seconds: float


counts = st.integers(0, 4)
sends = st.builds(
    Send,
    good=st.one_of(counts, st.integers(BATCH_ENTRIES - 1, BATCH_ENTRIES * 2 + 1)),
    erring=counts,
    bad_time=counts,
    odd_text=counts,
    log_name=st.sampled_from([None, "a", "b"]),
    tcp=st.booleans(),
)
steps = st.lists(
    st.one_of(
        sends,
        st.builds(Become, st.integers(0, 1), st.sampled_from(Mood)),
        st.just(Cancel()),
        st.builds(Pass, st.sampled_from([0.0, 1.0, 60.0])),
    ),
    max_size=25,
)


def encoded(send: Send) -> tuple[bytes, int]:
    """Return the message of `send`, and its number of entries."""
    entries = [http_entry(request_id=f"id-{number}") for number in range(send.good)]
    entries += [http_entry(code=503) for _ in range(send.erring)]
    for _ in range(send.bad_time):
        bad = HTTPAccessLogEntry()
        bad.common_properties.start_time.nanos = -1
        entries.append(bad)
    entries += [http_entry(path="/UTF8") for _ in range(send.odd_text)]
    if send.tcp:
        whole = message(*[tcp_entry() for _ in entries], log_name=send.log_name)
        return whole.SerializeToString(), len(entries)
    data = message(*entries, log_name=send.log_name).SerializeToString()
    return data.replace(b"UTF8", b"\xff\xff\xff\xff"), len(entries)


class PipelineHarness:
    """Entry counters, a pipeline to two unreliable sinks, and streams that open and end."""

    def __init__(self, rate: float, required: bool) -> None:
        self.counters = EntryCounters()
        self.sinks = [MoodySink(name) for name in SINKS]
        self.clock = Clock()
        self.line: Pipeline = pipeline(
            *self.sinks, bounds=BOUNDS, clock=self.clock, required=["one"] if required else []
        )
        self.rules = Rules(Redaction(), Sampling(rate))
        self.streams: list[asyncio.Task[None]] = []
        self.sent = 0
        self.held: Counter[int] = Counter()
        """The lines of each stream, by its number, that are formatted but not yet in the queues."""

    async def stream(self, number: int, data: bytes, count: int) -> None:
        decoder = EntryDecoder(self.rules, self.counters, lambda: 1.0, lambda: 0.5)
        line_batches = decoder.read(data)
        self.sent += count
        try:
            for line_batch in line_batches:
                self.held[number] = len(line_batch.lines)
                await self.line.submit(line_batch)
                self.held[number] = 0
        finally:
            self.held[number] = 0
            line_batches.close()

    async def do(self, step: Send | Become | Cancel | Pass) -> None:
        match step:
            case Send():
                self.streams.append(asyncio.create_task(self.stream(len(self.streams), *encoded(step))))
                await settle()
            case Become(sink, mood):
                self.sinks[sink].become(mood)
            case Cancel():
                running = [task for task in self.streams if not task.done()]
                if running:
                    running[0].cancel()
                    await settle()
            case Pass(seconds):
                self.clock.now += seconds
                await settle()

    def check(self, at_rest: bool = False) -> None:
        waiting = sum(1 for task in self.streams if not task.done())
        for sink_queue in self.line.sink_queues:
            name = sink_queue.sink.name
            in_flight = sum(log.in_flight(name) for log in self.counters)
            assert all(log.in_flight(name) >= 0 for log in self.counters)
            assert in_flight >= sink_queue.entries + sum(self.held.values())
            if not waiting or at_rest:
                assert in_flight == sink_queue.entries
            assert sink_queue.size_bytes >= sink_queue.entries >= 0
        assert sum(log.received for log in self.counters) == self.sent
        assert self.line.waiting_streams == waiting


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([1.0, 0.5, 0.0]), st.booleans())
def test_every_entry_is_counted_exactly_once(
    todo: list[Send | Become | Cancel | Pass], rate: float, required: bool
) -> None:
    async def run() -> None:
        harness = PipelineHarness(rate, required)
        await harness.line.start()
        for step in todo:
            await harness.do(step)
            harness.check()
        for task in harness.streams:
            task.cancel()
        await asyncio.gather(*harness.streams, return_exceptions=True)
        harness.check(at_rest=True)
        await harness.line.stop(0)
        harness.check(at_rest=True)
        for sink in harness.sinks:
            assert sum(log.in_flight(sink.name) for log in harness.counters) == 0
            assert len(sink.lines) == sum(log.written_to[sink.name] for log in harness.counters)

    asyncio.run(run())


@settings(max_examples=50, deadline=None)
@given(st.lists(sends, max_size=10), st.sampled_from([1.0, 0.5]))
def test_nothing_is_lost_while_the_sinks_are_well(messages: list[Send], rate: float) -> None:
    async def run() -> None:
        harness = PipelineHarness(rate, required=True)
        await harness.line.start()
        for send in messages:
            await harness.do(send)
        async with asyncio.timeout(30):
            await asyncio.gather(*harness.streams)
        await harness.line.stop(30)
        lost = Counter[DropReason]()
        for log in harness.counters:
            lost += log.dropped
            assert log.dropped_by.keys() <= {("two", DropReason.QUEUE_FULL)}
            assert log.written_to["one"] == log.received - log.sampled_out - log.dropped.total()
        assert set(lost) <= {DropReason.MALFORMED}

    asyncio.run(run())
