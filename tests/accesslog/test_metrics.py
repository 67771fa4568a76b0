from prometheus_client import CollectorRegistry, generate_latest

from accesslog.metrics import AccesslogCollector, SinkMetrics
from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.sinks.queue import SinkQueue
from tests.support.sinks import PATIENT, Clock, Mood, MoodySink, line_batch


class TwoStreams:
    open_streams = 2


class Watched:
    def __init__(self, *sinks: MoodySink) -> None:
        self.registry = CollectorRegistry()
        self.counters = EntryCounters()
        observer = SinkMetrics(self.registry, [sink.name for sink in sinks])
        self.line = Pipeline([SinkQueue(sink, PATIENT, Clock(), observer) for sink in sinks])
        self.registry.register(AccesslogCollector(self.counters, self.line, TwoStreams()))

    def value(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, f"{name} {labels} in:\n{generate_latest(self.registry).decode()}"
        return value


async def test_the_counters_satisfy_the_equation_for_each_sink() -> None:
    well, broken = MoodySink("well"), MoodySink("broken", Mood.BROKEN)
    watched = Watched(well, broken)
    log = watched.counters.log("edge", "http")
    log.received += 3
    log.sampled_out += 2
    log.dropped[DropReason.MALFORMED] += 1
    await watched.line.start()
    await watched.line.submit(line_batch(log, 4))
    await watched.line.stop(10)
    edge = {"log_name": "edge", "type": "http"}
    assert watched.value("accesslog_entries_received_total", **edge) == 7
    assert watched.value("accesslog_entries_sampled_out_total", **edge) == 2
    assert watched.value("accesslog_entries_dropped_total", **edge, sink="", reason="malformed") == 1
    assert watched.value("accesslog_entries_written_total", **edge, sink="well") == 4
    assert watched.value("accesslog_entries_written_total", **edge, sink="broken") == 0
    assert watched.value("accesslog_entries_dropped_total", **edge, sink="broken", reason="broken_pipe") == 4
    assert watched.value("accesslog_sink_errors_total", sink="broken", reason="broken_pipe") == 1
    assert watched.value("accesslog_sink_write_seconds_count", sink="well") == 1


async def test_queues_and_streams_are_shown_as_they_are_at_the_moment() -> None:
    watched = Watched(MoodySink("still"))
    await watched.line.submit(line_batch(watched.counters.log("edge", "http"), 4, line_bytes=10))
    assert watched.value("accesslog_queue_entries", sink="still") == 4
    assert watched.value("accesslog_queue_bytes", sink="still") == 40
    assert watched.value("accesslog_sink_failing", sink="still") == 0
    assert watched.value("accesslog_streams_open") == 2
    assert watched.value("accesslog_streams_waiting") == 0
