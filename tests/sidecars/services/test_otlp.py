"""The OTLP sinks with real receivers on the official package, by gRPC and by HTTP."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from accesslog.pipeline import Pipeline
from accesslog.records.counters import DropReason, EntryCounters
from accesslog.records.line_batch import LineBatch
from accesslog.sinks.queue import Bounds, SinkQueue
from accesslog.sinks.sink import Sink, SinkError
from accesslog.sinks.spooling import SinkSpool, SpoolBounds
from sidecars.services.accesslog_sinks import _sink
from sidecars.services.otlp_grpc import OtlpGrpc
from sidecars.settings.sinks import OtlpSinkSettings
from tests.sidecars.services.test_accesslog import dependencies
from tests.support.otlp import Answer, GrpcReceiver, HttpReceiver, Receiver, Server
from tests.support.sinks import Clock, Observed, until

RETRIED: dict[str, list[Any]] = {
    "grpc": [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.OUT_OF_RANGE,
    ],
    "http": [429, 502, 503, 504],
}
FINAL: dict[str, list[Any]] = {
    "grpc": [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    ],
    "http": [302, 400, 401, 413, 500],
}
BUSY: dict[str, Any] = {"grpc": grpc.StatusCode.RESOURCE_EXHAUSTED, "http": 429}


class Peer:
    """A receiver and the sink that sends to it."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.server: Server = GrpcReceiver() if protocol == "grpc" else HttpReceiver()
        self.sinks: list[Sink] = []

    @property
    def receiver(self) -> Receiver:
        return self.server.receiver

    def sink(self, **changes: Any) -> Sink:
        settings = OtlpSinkSettings.model_validate(
            {"endpoint": self.server.url, "protocol": self.protocol, "timeout_ms": 2000, **changes}
        )
        sink = _sink(settings, 0, dependencies())
        self.sinks.append(sink)
        return sink


@pytest_asyncio.fixture(params=["grpc", "http"])
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    peer = Peer(request.param)
    await peer.server.start()
    yield peer
    for sink in peer.sinks:
        await sink.close()
    await peer.server.stop()


def lines(first: int, count: int) -> list[bytes]:
    return [
        b'{"type":"http","request_id":"id-%d","code":200}\n' % number
        for number in range(first, first + count)
    ]


def ids(receiver: Receiver) -> list[str]:
    return [
        attribute.value.string_value
        for record in receiver.records
        for attribute in record.attributes
        if attribute.key == "envoy.request_id"
    ]


async def failure_of(sink: Sink, todo: list[bytes]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        await sink.write(todo)
    return caught.value


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_records_arrive_with_their_fields_as_attributes(peer: Peer, compression: str) -> None:
    sink = peer.sink(compression=compression, resource={"service.name": "edge-7"})
    await sink.open()
    line = (
        b'{"time":"2026-09-21T14:13:20.123456Z","type":"http","method":"GET","path":"/v1","code":503,'
        b'"response_flags":["UF"],"authz_rule":"r1","request_headers":{"x-a":"b"}}\n'
    )
    await sink.write([line])
    [request] = peer.receiver.requests
    [resource] = request.resource_logs
    assert [(one.key, one.value.string_value) for one in resource.resource.attributes] == [
        ("service.name", "edge-7")
    ]
    [record] = peer.receiver.records
    attributes = {one.key: one.value for one in record.attributes}
    assert attributes["http.request.method"].string_value == "GET"
    assert attributes["http.response.status_code"].int_value == 503
    assert attributes["authz.rule"].string_value == "r1"
    assert attributes["envoy.response_flags"].array_value.values[0].string_value == "UF"
    assert attributes["http.request.header"].kvlist_value.values[0].key == "x-a"
    assert record.severity_text == "ERROR"


async def test_headers_are_read_for_each_request(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# the tenant\nX-Tenant: one\n")
    sink = peer.sink(headers_file=file)
    await sink.write(lines(0, 1))
    file.write_text("X-Tenant: two\n")
    await sink.write(lines(1, 1))
    assert [headers["x-tenant"] for headers in peer.receiver.headers] == ["one", "two"]
    file.unlink()
    error = await failure_of(sink, lines(2, 1))
    assert error.retry
    assert "no such file" in str(error)


async def test_what_the_specification_calls_retryable_is_retried(peer: Peer) -> None:
    sink = peer.sink()
    for code in RETRIED[peer.protocol]:
        peer.receiver.answers.append(Answer(code))
        error = await failure_of(sink, lines(0, 1))
        assert error.retry, code
        assert error.retry_after_seconds is None
    await sink.write(lines(0, 1))
    assert ids(peer.receiver) == ["id-0"]


async def test_what_it_does_not_is_final(peer: Peer) -> None:
    sink = peer.sink()
    for code in FINAL[peer.protocol]:
        peer.receiver.answers.append(Answer(code))
        error = await failure_of(sink, lines(0, 1))
        assert not error.retry, code
        assert error.reason is DropReason.REFUSED


async def test_the_pause_that_a_busy_receiver_asks_for_is_kept(peer: Peer) -> None:
    sink = peer.sink()
    peer.receiver.answers.append(Answer(BUSY[peer.protocol], retry_after=7))
    error = await failure_of(sink, lines(0, 1))
    assert error.retry
    assert error.retry_after_seconds == 7
    assert error.reason is DropReason.REFUSED


async def test_rejected_records_are_counted(peer: Peer) -> None:
    sink = peer.sink()
    peer.receiver.answers.append(Answer(rejected=3))
    error = await failure_of(sink, lines(0, 10))
    assert (error.written, error.retry, error.works) == (7, False, True)
    assert str(error).endswith("rejected 3 of 10 records: too old")


async def test_one_that_is_away_is_unreachable_and_named(peer: Peer) -> None:
    sink = peer.sink(timeout_ms=500)
    await peer.server.stop()
    error = await failure_of(sink, lines(0, 1))
    assert (error.reason, error.retry) == (DropReason.UNREACHABLE, True)
    assert peer.server.url in str(error)
    for attempt in (sink.open(), sink.check()):
        with pytest.raises(SinkError):
            await attempt
    await peer.server.start()
    await until_checked(sink)
    await sink.write(lines(0, 1))


async def until_checked(sink: Sink) -> None:
    for _ in range(100):
        try:
            await sink.check()
        except SinkError:
            continue
        return
    raise AssertionError("it never came back")


class Line:
    """A pipeline to `sink` with a spool."""

    def __init__(self, sink: Sink, folder: Path) -> None:
        counters, clock = EntryCounters(), Clock()
        self.log = counters.log("edge", "http")
        self.spool = SinkSpool(folder, "otlp", counters.log, clock, SpoolBounds(sync_seconds=0.02))
        bounds = Bounds(batch_bytes=500, first_backoff_seconds=0.01, longest_backoff_seconds=0.01)
        self.pipeline = Pipeline([SinkQueue(sink, bounds, clock, Observed(), spool=self.spool)])

    async def send(self, first: int, count: int) -> None:
        for number in range(first, first + count, 5):
            batch = tuple(lines(number, 5))
            self.log.received += 5
            await self.pipeline.submit(LineBatch(self.log, batch, sum(map(len, batch))))


async def test_a_restart_of_the_receiver_loses_nothing(peer: Peer, tmp_path: Path) -> None:
    line = Line(peer.sink(timeout_ms=500), tmp_path / "spool")
    await line.pipeline.start()
    await line.send(0, 50)
    await until(lambda: line.log.written_to["otlp"] == 50)
    await peer.server.stop()
    await line.send(50, 50)
    await until(lambda: line.spool.entries == 50)
    await peer.server.start()
    await until(lambda: line.log.written_to["otlp"] == 100)
    assert ids(peer.receiver) == [f"id-{number}" for number in range(100)]
    await line.pipeline.stop(10)


@pytest.mark.parametrize("retried", [True, False])
async def test_one_that_refuses_every_tenth_batch(peer: Peer, tmp_path: Path, retried: bool) -> None:
    codes = RETRIED if retried else FINAL
    refuse: Callable[[int], Answer | None] = lambda number: (  # noqa: E731
        None if number % 10 else Answer(codes[peer.protocol][0])
    )
    peer.receiver.every = refuse
    line = Line(peer.sink(), tmp_path / "spool")
    await line.pipeline.start()
    with capture_logs() as logs:
        await line.send(0, 1000)
        await until(lambda: not line.log.in_flight("otlp"))
    assert peer.receiver.attempts > 50
    received = ids(peer.receiver)
    assert len(received) == len(set(received)) == line.log.written_to["otlp"]
    dropped = line.log.dropped_by["otlp", DropReason.REFUSED]
    assert dropped == 1000 - len(received)
    assert bool(dropped) is not retried
    assert ("entries dropped" in {log["event"] for log in logs}) is not retried
    await line.pipeline.stop(10)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://[::1]:4318", "http://[::1]:4318"),
        ("http://a", "http://a:4317"),
        ("http://[::1]", "http://[::1]:4317"),
    ],
)
def test_an_ipv6_address_is_shown_in_brackets(url: str, shown: str) -> None:
    assert OtlpGrpc(url, dict, 1.0).endpoint == shown
