"""The Kafka sink with a real Apache Kafka, which `make test-all` fetches."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.kafka import KafkaSink
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.sink import SinkError
from accesslog.sinks.spooling import SinkSpool, SpoolBounds
from tests.support.kafka_broker import KafkaBroker, jars
from tests.support.sinks import Clock, Observed, until

pytest.importorskip("confluent_kafka")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"), jars())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest_asyncio.fixture
async def sink(broker: KafkaBroker, topic: str) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(broker.servers, topic, 20.0, dict)
    yield sink
    await sink.close()


def lines(first: int, count: int) -> list[bytes]:
    return [b'{"number":%d}\n' % number for number in range(first, first + count)]


def values(of: list[bytes]) -> list[bytes]:
    return [line[:-1] for line in of]


async def test_each_line_is_a_message_in_order(broker: KafkaBroker, topic: str, sink: KafkaSink) -> None:
    await sink.open()
    await sink.write(lines(0, 500))
    await sink.write(lines(500, 1))
    assert broker.messages(topic, 501) == values(lines(0, 501))


async def test_a_message_that_is_too_large_is_refused_alone(
    broker: KafkaBroker, topic: str, sink: KafkaSink
) -> None:
    todo = [*lines(0, 3), b"x" * 2_000_000 + b"\n", *lines(3, 3)]
    with pytest.raises(SinkError, match=r"1 of 7 messages") as caught:
        await sink.write(todo)
    error = caught.value
    assert (error.reason, error.retry, error.works, error.written) == (DropReason.REFUSED, False, True, 6)
    assert broker.messages(topic, 6) == values(lines(0, 6))


async def test_a_name_that_no_topic_may_have_is_refused(broker: KafkaBroker) -> None:
    sink = KafkaSink(broker.servers, "no/topic", 5.0, dict)
    with pytest.raises(SinkError, match=r"topic no/topic at"):
        await sink.check()
    await sink.close()


async def test_a_property_that_does_not_exist_is_named(broker: KafkaBroker, topic: str) -> None:
    sink = KafkaSink(broker.servers, topic, 5.0, lambda: {"no.such": "1"})
    with pytest.raises(SinkError, match=r"no\.such"):
        await sink.write(lines(0, 1))
    await sink.close()


async def test_a_broker_that_is_not_there_is_unreachable() -> None:
    sink = KafkaSink("127.0.0.1:1", "topic", 0.3, dict)
    for attempt in (sink.check(), sink.write(lines(0, 2))):
        with pytest.raises(SinkError) as caught:
            await attempt
        assert (caught.value.reason, caught.value.retry) == (DropReason.UNREACHABLE, True)
    await sink.close()


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_broker_that_goes_away_loses_nothing(broker: KafkaBroker, tmp_path: Path, how: str) -> None:
    counters, clock = EntryCounters(), Clock()
    log = counters.log("edge", "http")
    topic = f"restarted-{how}"
    sink = KafkaSink(broker.servers, topic, 2.0, dict)
    spool = SinkSpool(tmp_path / "spool", "kafka", counters.log, clock, SpoolBounds(sync_seconds=0.02))
    bounds = Bounds(first_backoff_seconds=0.05, longest_backoff_seconds=0.5)
    line = Pipeline([SinkQueue(sink, bounds, clock, Observed(), spool=spool)])
    await line.start()

    async def send(first: int, count: int) -> None:
        for number in range(first, first + count, 10):
            batch = tuple(lines(number, 10))
            log.received += 10
            await line.submit(LineBatch(log, batch, sum(map(len, batch))))

    await send(0, 200)
    await until(lambda: log.written_to["kafka"] == 200)
    broker.stop() if how == "kill" else broker.pause()
    with capture_logs() as logs:
        await send(200, 200)
        await until(lambda: any(entry["event"] == "sink fails" for entry in logs))
        await until(lambda: spool.entries == 200)
        broker.start() if how == "kill" else broker.resume()
        await until(lambda: log.written_to["kafka"] == 400)
    assert logs[0]["reason"] == "unreachable"
    assert not log.dropped_by
    found = broker.messages(topic, 400)
    assert list(dict.fromkeys(found)) == values(lines(0, 400))  # a paused broker had the first attempt, too
    await line.stop(10)
