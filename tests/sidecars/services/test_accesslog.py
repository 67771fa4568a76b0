import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from structlog.testing import capture_logs

from sidecars.services.accesslog import SERVICE, AccesslogSidecar, build
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.transport.api.address import UnixAddress
from sidecars.transport.api.service import Server
from tests.support.entries import http_entry, message, tcp_entry
from tests.support.sinks import until
from tests.support.transport.harness import TRANSPORTS, Client, make_server, outcome, within

METHOD = f"/{SERVICE}/StreamAccessLogs"


class Running:
    """A sidecar behind a real transport on a unix socket, its sink a real file."""

    def __init__(
        self, sidecar: AccesslogSidecar, registry: CollectorRegistry, server: Server, target: str
    ) -> None:
        self.sidecar = sidecar
        self.registry = registry
        self.server = server
        self.target = target
        self.client = Client(target)

    def open(self) -> "grpc.aio.StreamUnaryCall[bytes, bytes]":
        return self.client.client_stream(METHOD)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def received(self, entries: int, kind: str = "http", log_name: str = "edge") -> None:
        await until(
            lambda: self.count("accesslog_entries_received_total", log_name=log_name, type=kind) >= entries
        )

    async def close(self) -> None:
        await self.client.channel.close()
        await within(self.server.drain(0))
        await within(self.sidecar.stop())


Start = Callable[..., Awaitable[Running]]


def dependencies(registry: CollectorRegistry | None = None) -> Dependencies:
    return Dependencies(
        registry=registry or CollectorRegistry(),
        wall_clock=time.time,
        monotonic_clock=time.monotonic,
        random=lambda: 0.5,
        redis=None,
    )


def settings(**section: Any) -> AccesslogSettings:
    return AccesslogSettings.model_validate({"listen": ["127.0.0.1:0"], **section})


@pytest_asyncio.fixture(params=TRANSPORTS)
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Running] = []

    async def run(**section: Any) -> Running:
        section.setdefault("sinks", [{"type": "file", "path": str(tmp_path / "access.jsonl")}])
        registry = CollectorRegistry()
        sidecar = build(settings(**section), dependencies(registry))
        address = UnixAddress(str(tmp_path / "accesslog.sock"))
        server = make_server(request.param, tuple(sidecar.services), (address,))
        await sidecar.start()
        await server.start()
        running = Running(sidecar, registry, server, f"unix:{address.path}")
        started.append(running)
        return running

    yield run
    for running in started:
        await running.close()


def send_until_the_end(target: str) -> tuple[grpc.StatusCode, str]:
    """The status of a stream on which entries are sent for as long as the server takes any."""
    data = message(http_entry()).SerializeToString()
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.stream_unary(METHOD)
        try:
            call(repeat(data), timeout=30)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


class TestStream:
    async def test_entries_become_lines_of_the_file(self, start: Start, tmp_path: Path) -> None:
        running = await start()
        stream = running.open()
        await stream.write(message(http_entry(path="/a?token=t"), http_entry(code=403)).SerializeToString())
        await stream.write(message(tcp_entry(), log_name=None).SerializeToString())
        await stream.done_writing()
        assert await within(stream) == b""
        await running.close()
        records = lines_of(tmp_path / "access.jsonl")
        assert [(record["type"], record.get("code")) for record in records] == [
            ("http", 200),
            ("http", 403),
            ("tcp", None),
        ]
        assert records[0]["query"] == "token=[redacted]"
        assert {record["log_name"] for record in records} == {"edge"}

    async def test_a_first_message_without_identifier_is_accepted_and_counted(self, start: Start) -> None:
        running = await start()
        stream = running.open()
        await stream.write(message(http_entry(), log_name=None).SerializeToString())
        await running.received(1, log_name="unknown")
        assert running.count("accesslog_streams_unidentified_total") == 1
        assert running.count("accesslog_streams_open") == 1

    async def test_a_bad_entry_does_not_end_the_stream(self, start: Start, tmp_path: Path) -> None:
        running = await start()
        stream = running.open()
        bad = http_entry()
        bad.common_properties.start_time.seconds = 2**60
        await stream.write(message(bad, http_entry()).SerializeToString())
        await stream.write(message(http_entry()).SerializeToString())
        await stream.done_writing()
        assert await outcome(stream) == (grpc.StatusCode.OK, "")
        await running.close()
        assert len(lines_of(tmp_path / "access.jsonl")) == 2
        dropped = {"log_name": "edge", "type": "http", "sink": "", "reason": "malformed"}
        assert running.count("accesslog_entries_dropped_total", **dropped) == 1

    async def test_bytes_that_are_not_utf_8_keep_no_request_out_of_the_log(
        self, start: Start, tmp_path: Path
    ) -> None:
        running = await start()
        stream = running.open()
        odd = message(http_entry(request_id="UTF8"), http_entry()).SerializeToString()
        await stream.write(odd.replace(b"UTF8", b"\xff" * 4))
        await stream.done_writing()
        assert await outcome(stream) == (grpc.StatusCode.OK, "")
        await running.close()
        records = lines_of(tmp_path / "access.jsonl")
        assert [record.get("not_utf8") for record in records] == [["request_id"], None]
        assert records[0]["request_id"] == r"\xff\xff\xff\xff"

    async def test_a_message_that_is_not_a_protobuf_is_an_invalid_argument(self, start: Start) -> None:
        """Malformed protobuf is INVALID_ARGUMENT, and the process goes on."""
        running = await start()
        stream = running.open()
        await stream.write(b"\xff\xff\xff")
        code, details = await outcome(stream)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "StreamAccessLogsMessage" in details
        again = running.open()
        await again.write(message(http_entry()).SerializeToString())
        await running.received(1)
        assert running.count("accesslog_messages_unreadable_total") == 1

    async def test_envoy_that_leaves_without_a_word_loses_nothing_it_sent(
        self, start: Start, tmp_path: Path
    ) -> None:
        running = await start()
        stream = running.open()
        await stream.write(message(http_entry()).SerializeToString())
        await running.received(1)
        stream.cancel()
        await until(lambda: running.sidecar.open_streams == 0)
        await running.close()
        assert len(lines_of(tmp_path / "access.jsonl")) == 1


class TestBackPressure:
    async def test_a_sink_that_stands_still_stops_the_reading_and_loses_nothing(
        self, start: Start, tmp_path: Path
    ) -> None:
        """The facts on Envoy's client: it keeps and counts what it cannot send; a closed stream loses it."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        running = await start(
            sinks=[{"type": "file", "path": str(fifo), "queue": {"entries": 100}, "batch_bytes": 4096}]
        )
        data = message(*[http_entry()] * 20).SerializeToString()
        count = 200
        stream = running.open()

        async def send() -> None:
            for _ in range(count):
                await stream.write(data)
            await stream.done_writing()

        sending = asyncio.create_task(send())
        await until(lambda: running.count("accesslog_streams_waiting") == 1)
        before = running.count("accesslog_entries_received_total", log_name="edge", type="http")
        assert before < count * 20
        read = bytearray()
        async with asyncio.timeout(30):
            while not (stream.done() and running.count("accesslog_queue_entries", sink="file") == 0):
                try:
                    read += os.read(reader, 65_536)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                else:
                    await asyncio.sleep(0)
        await within(sending)
        assert await outcome(stream) == (grpc.StatusCode.OK, "")
        while True:
            try:
                read += os.read(reader, 65_536)
            except BlockingIOError:
                break
        assert read.count(b"\n") == count * 20
        os.close(reader)

    async def test_one_sink_that_stands_still_does_not_stop_the_other(
        self, start: Start, tmp_path: Path
    ) -> None:
        fifo, path = tmp_path / "fifo", tmp_path / "access.jsonl"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        running = await start(
            flush_seconds=0.05,
            sinks=[
                {"type": "file", "name": "stuck", "path": str(fifo), "queue": {"entries": 100}},
                {"type": "file", "name": "well", "path": str(path)},
            ],
        )
        stream = running.open()
        for _ in range(100):
            await stream.write(message(*[http_entry()] * 20).SerializeToString())
        await running.received(2_000)
        log = {"log_name": "edge", "type": "http"}
        await until(lambda: running.count("accesslog_entries_written_total", **log, sink="well") == 2_000)
        full = {**log, "sink": "stuck", "reason": "queue_full"}
        assert running.count("accesslog_entries_dropped_total", **full) > 0
        await running.close()
        written = running.count("accesslog_entries_written_total", **log, sink="stuck")
        shutdown = {**log, "sink": "stuck", "reason": "shutdown"}
        lost = running.count("accesslog_entries_dropped_total", **full)
        lost += running.count("accesslog_entries_dropped_total", **shutdown)
        assert written + lost == 2_000
        os.close(reader)


class TestShutdown:
    async def test_finish_streams_ends_each_with_ok_after_what_it_sent(
        self, start: Start, tmp_path: Path
    ) -> None:
        """Envoy never half-closes, so a graceful stop of the transport alone would wait forever."""
        running = await start()
        streams = [running.open() for _ in range(3)]
        for stream in streams:
            for _ in range(20):
                await stream.write(message(http_entry()).SerializeToString())
        await until(lambda: running.sidecar.open_streams == 3)
        await within(running.sidecar.finish_streams())
        for stream in streams:
            assert await outcome(stream) == (grpc.StatusCode.OK, "")
        await within(running.server.drain(10))
        await within(running.sidecar.stop())
        assert len(lines_of(tmp_path / "access.jsonl")) == 60

    async def test_a_stream_that_goes_on_sending_learns_that_it_was_cut_off(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sidecars.services.accesslog.FINISH_SECONDS", 0.1)
        running = await start()
        # Not grpc.aio: its client replaces the status (findings/grpc_aio_replaces_a_status.sh).
        sending = asyncio.create_task(asyncio.to_thread(send_until_the_end, running.target))
        await running.received(1)
        await within(running.sidecar.finish_streams())
        code, text = await within(sending)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert text == "the access log is shutting down: open another stream"
        await running.close()
        assert lines_of(tmp_path / "access.jsonl")

    async def test_a_stream_that_waits_for_room_ends_once_it_has_found_it(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sidecars.services.accesslog.FINISH_SECONDS", 0.1)
        # One message is one batch.
        monkeypatch.setattr("accesslog.records.decoder.BATCH_ENTRIES", 60)
        monkeypatch.setattr("accesslog.records.decoder.BATCH_BYTES", 2**20)
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        running = await start(sinks=[{"type": "file", "path": str(fifo), "queue": {"entries": 1}}])
        stream = running.open()
        data = message(*[http_entry(path="/ab" * 4_000)] * 20).SerializeToString()
        for _ in range(2):
            await stream.write(data)
        await until(lambda: running.count("accesslog_streams_waiting") == 1)
        await within(running.sidecar.finish_streams())
        assert not stream.done()
        read = bytearray()
        async with asyncio.timeout(30):
            while read.count(b"\n") < 40:
                try:
                    read += os.read(reader, 65_536)
                except BlockingIOError:
                    await asyncio.sleep(0.001)
        code, text = await outcome(stream)
        assert (code, text) == (
            grpc.StatusCode.UNAVAILABLE,
            "the access log is shutting down: open another stream",
        )
        os.close(reader)

    async def test_a_stream_opened_afterwards_is_sent_elsewhere(self, start: Start) -> None:
        running = await start()
        await within(running.sidecar.finish_streams())
        # Not grpc.aio, as above.
        code, _ = await within(asyncio.to_thread(send_until_the_end, running.target))
        assert code is grpc.StatusCode.UNAVAILABLE

    async def test_stop_writes_what_is_queued(self, start: Start, tmp_path: Path) -> None:
        running = await start()
        stream = running.open()
        await stream.write(message(*[http_entry()] * 500).SerializeToString())
        await running.received(500)
        await running.close()
        assert len(lines_of(tmp_path / "access.jsonl")) == 500


class TestLogRotation:
    async def test_the_swap_of_a_reload_lets_go_of_the_old_file(self, start: Start, tmp_path: Path) -> None:
        running = await start()
        path = tmp_path / "access.jsonl"
        path.rename(path.with_suffix(".1"))
        running.sidecar.prepare()()
        await until(path.exists)


class TestSettings:
    def test_a_minimal_section_writes_to_standard_output(self) -> None:
        sidecar: Sidecar = build(settings(), dependencies())
        assert [sink["name"] for sink in sidecar.describe()["sinks"]] == ["stdout"]
        assert sidecar.watched_files == ()

    @pytest.mark.parametrize(
        ("section", "complaint"),
        [
            ({"listen": []}, "at least 1"),
            ({"sinks": []}, "at least 1"),
            ({"redact": {"allow": {"headers": ["cokie"]}}}, "redacted by default; did you mean 'cookie'"),
            ({"redact": False}, "RedactSettings"),
            ({"sample": {"rate": 1.5}}, "less than or equal to 1"),
            ({"unknown": 1}, "Extra inputs"),
        ],
    )
    def test_bad_ones_are_refused_with_the_reason(self, section: dict[str, Any], complaint: str) -> None:
        with pytest.raises(ValidationError, match=complaint):
            settings(**section)

    async def test_what_is_allowed_although_secret_is_said_aloud_at_start(self, tmp_path: Path) -> None:
        redact = {"allow": {"headers": ["cookie"], "query_parameters": ["token"]}}
        sinks = [{"type": "file", "path": str(tmp_path / "access.jsonl")}]
        sidecar = build(settings(redact=redact, sinks=sinks), dependencies())
        with capture_logs() as logs:
            await sidecar.start()
        assert [line["name"] for line in logs if line["log_level"] == "warning"] == ["cookie", "token"]
        assert sidecar.describe()["redaction_allowed"] == ["cookie", "token"]
        await sidecar.stop()
