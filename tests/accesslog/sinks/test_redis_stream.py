"""The sink for Redis streams, with a real Redis that is full, hangs, and restarts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.redis_stream import RedisStreamSink
from accesslog.sinks.sink import SinkError
from accesslog.sinks.spooling import SinkSpool, SpoolBounds
from sidecars.process.redis import connect
from sidecars.settings.redis import RedisSettings
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sinks import Clock, Observed, until

__all__ = ["redis_server"]

pytestmark = pytest.mark.redis

STREAM = "accesslog"


def sink_for(server: RedisServer, max_entries: int = 1_000_000, timeout_ms: int = 5_000) -> RedisStreamSink:
    # The pauses between attempts are those of the queue here.
    settings = RedisSettings(
        url=server.url,
        operation_timeout_ms=timeout_ms,
        connect_timeout_ms=timeout_ms,
        backoff_min_ms=1,
        backoff_max_ms=1,
        max_connections=4,
    )
    return RedisStreamSink(connect(settings), STREAM, max_entries)


@pytest_asyncio.fixture
async def sink(redis_server: RedisServer) -> AsyncIterator[RedisStreamSink]:
    sink = sink_for(redis_server)
    yield sink
    await sink.close()


def lines(first: int, count: int) -> list[bytes]:
    return [b'{"number":%d}\n' % number for number in range(first, first + count)]


def stored(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        entries = client.xrange(STREAM)
    return [fields[b"record"] + b"\n" for _, fields in entries]


async def test_each_line_is_an_entry_in_order(redis_server: RedisServer, sink: RedisStreamSink) -> None:
    await sink.open()
    await sink.write(lines(0, 500))
    await sink.write(lines(500, 1))
    assert stored(redis_server) == lines(0, 501)


async def test_the_stream_keeps_about_the_newest(redis_server: RedisServer) -> None:
    sink = sink_for(redis_server, max_entries=100)
    for first in range(0, 2000, 500):
        await sink.write(lines(first, 500))
    await sink.close()
    kept = stored(redis_server)
    assert 100 <= len(kept) <= 300
    assert kept == lines(2000 - len(kept), len(kept))


async def test_a_redis_without_memory_refuses_and_takes_each_entry_once(
    redis_server: RedisServer, sink: RedisStreamSink
) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 3_000_000)
        todo = [b'{"number":%d,"text":"%s"}\n' % (number, b"x" * 1000) for number in range(20_000)]
        with pytest.raises(SinkError) as caught:
            await sink.write(todo)
        assert caught.value.reason is DropReason.REFUSED
        assert caught.value.retry
        assert str(caught.value).startswith("stream accesslog: OOM command not allowed")
        assert "number" not in str(caught.value)
        assert caught.value.__cause__ is None
        client.config_set("maxmemory", 0)
    await sink.write(todo)
    assert stored(redis_server) == todo


async def test_a_key_of_another_type_is_refused_with_the_words_of_redis(
    redis_server: RedisServer, sink: RedisStreamSink
) -> None:
    with redis_server.client() as client:
        client.set(STREAM, "text")
    with pytest.raises(SinkError, match=r"^stream accesslog: WRONGTYPE Operation"):
        await sink.write(lines(0, 3))


async def test_a_redis_that_is_away_is_unreachable_for_writes_and_checks(redis_server: RedisServer) -> None:
    sink = sink_for(redis_server)
    redis_server.stop()
    for attempt in (sink.open(), sink.check(), sink.write(lines(0, 1))):
        with pytest.raises(SinkError) as caught:
            await attempt
        assert caught.value.reason is DropReason.UNREACHABLE
        assert caught.value.retry
    redis_server.start()
    await until_written(sink, lines(0, 1))
    assert stored(redis_server) == lines(0, 1)
    await sink.close()


async def until_written(sink: RedisStreamSink, todo: list[bytes]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await sink.write(todo)
            except SinkError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_redis_that_hangs_is_unreachable_after_the_timeout(redis_server: RedisServer) -> None:
    sink = sink_for(redis_server, timeout_ms=50)
    redis_server.pause()
    with pytest.raises(SinkError) as caught:
        await sink.write(lines(0, 1))
    assert caught.value.reason is DropReason.UNREACHABLE
    redis_server.resume()
    await until_written(sink, lines(0, 1))
    assert set(stored(redis_server)) == set(lines(0, 1))  # it may have read the first attempt, too
    await sink.close()


async def test_a_restart_of_redis_loses_nothing_that_it_had_not_taken(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    counters, clock = EntryCounters(), Clock()
    log = counters.log("edge", "http")
    sink = sink_for(redis_server)
    spool = SinkSpool(tmp_path / "spool", "redis", counters.log, clock, SpoolBounds(sync_seconds=0.02))
    bounds = Bounds(first_backoff_seconds=0.01, longest_backoff_seconds=0.01)
    line = Pipeline([SinkQueue(sink, bounds, clock, Observed(), spool=spool)])
    await line.start()

    async def send(first: int, count: int) -> None:
        for number in range(first, first + count, 10):
            batch = tuple(lines(number, 10))
            log.received += 10
            await line.submit(LineBatch(log, batch, sum(map(len, batch))))
            await asyncio.sleep(0)

    await send(0, 1000)
    await until(lambda: log.written_to["redis"] == 1000)
    redis_server.stop()  # without persistence: what it had is gone
    with capture_logs() as logs:
        await send(1000, 1000)
        await until(lambda: spool.entries == 1000 and len(logs) == 1)
        redis_server.start()
        await until(lambda: log.written_to["redis"] == 2000)
    assert [entry["event"] for entry in logs] == ["sink fails", "sink recovered"]
    assert logs[0]["reason"] == "unreachable"
    assert stored(redis_server) == lines(1000, 1000)
    assert not log.dropped_by
    await line.stop(10)
