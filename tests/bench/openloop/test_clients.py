"""The sans-IO clients of the generator, and whole runs against real servers."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hpack import Encoder

from bench.openloop.client import Ended
from bench.openloop.grpc import GrpcClient
from bench.openloop.http1 import Http1Client
from bench.openloop.latency import Latency
from bench.openloop.order import Order, Outcome, read_requests, write_requests
from bench.openloop.run import perform, perform_on
from bench.tools.generator import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    frame,
    header_blocks,
)
from bench.tools.load import LoadError
from bench.tools.noop_server import PATH
from bench.tools.processes import load_core, python_server
from bench.transport import nghttpd

RESPONSES = {
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ""),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", ""),
    "chunks": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\nA;x\r\n0123456789\r\n0\r\n\r\n",
        "",
    ),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n", ""),
    "an interim response": (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "",
    ),
    "a refusal": (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", "HTTP 403"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_ends_where_it_ends_in_whatever_pieces_it_comes(name: str) -> None:
    data, failure = RESPONSES[name]
    for cut in range(len(data)):
        client = Http1Client([b"request"])
        for tag in range(2):
            client.call(tag)
            assert client.feed(data[:cut]) == ((), b"") or cut == 0
            assert client.feed(data[cut:]) == ((Ended(tag, failure),), b"")


def test_a_response_without_a_length_ends_with_the_connection() -> None:
    client = Http1Client([b"request"])
    client.call(0)
    assert client.feed(b"HTTP/1.1 200 OK\r\n\r\nhello") == ((), b"")
    assert client.closed() == (Ended(0),)
    assert client.closed() == ()


def test_a_connection_that_the_server_will_close_takes_no_more_requests() -> None:
    client = Http1Client([b"request"])
    client.call(0)
    client.feed(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert client.exhausted


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000])
def test_what_is_no_http_response_ends_the_load(data: bytes) -> None:
    client = Http1Client([b"request"])
    client.call(0)
    with pytest.raises(LoadError):
        client.feed(data)


def grpc_client(calls: int = 10) -> GrpcClient:
    return GrpcClient(header_blocks(PATH, calls, 0, tracing=False), [b"first", b"second"], streams=4)


def trailers(stream: int, **fields: str) -> bytes:
    block = Encoder().encode([(name.replace("_", "-"), value, True) for name, value in fields.items()])
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (trailers(1, grpc_status="0"), ""),
        (trailers(1, grpc_status="14"), "grpc-status 14"),
        (trailers(1, x="y"), "grpc-status missing"),
        (frame(DATA, END_STREAM, 1, b""), "no grpc-status"),
        (frame(RST_STREAM, 0, 1, b"\0\0\0\x07"), "reset with HTTP/2 error 7"),
    ],
)
def test_a_call_ends_with_its_trailers_or_fails(data: bytes, failure: str) -> None:
    client = grpc_client()
    client.call(0)
    client.call(1)
    for cut in range(1, len(data)):
        client = grpc_client()
        client.call(0)
        client.call(1)
        assert client.feed(data[:cut]) == ([], b"")
        assert client.feed(data[cut:]) == ([Ended(0, failure)], b"")
    assert client.closed() == [Ended(1, "closed without a response")]


def test_settings_and_pings_are_acknowledged() -> None:
    data = frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 1, 0, b"")
    assert grpc_client().feed(data) == ([], frame(SETTINGS, 1, 0, b"") + frame(PING, 1, 0, b"12345678"))


def test_a_connection_is_replaced_after_its_last_prepared_call_or_a_goaway() -> None:
    client = grpc_client(calls=2)
    exhausted = []
    for number in range(2):
        client.call(number)
        exhausted.append(client.exhausted)
    assert exhausted == [False, True]
    leaving = grpc_client()
    leaving.feed(frame(GOAWAY, 0, 0, bytes(8)))
    assert leaving.exhausted
    with pytest.raises(LoadError, match="error 11: b'calm'"):
        grpc_client().feed(frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0bcalm"))


def test_a_message_longer_than_a_frame_is_split() -> None:
    client = GrpcClient(header_blocks(PATH, 1, 0, tracing=False), [bytes(40_000)], streams=4)
    assert client.streams == 1
    data = client.call(0)
    assert data.count(b"\x00\x40\x00\x00\x00\x00\x00\x00\x01") == 2
    assert data.endswith(frame(DATA, END_STREAM, 1, bytes(40_005 - 2 * 16_384)))


def test_an_order_and_an_outcome_survive_json(tmp_path: Path) -> None:
    order = Order("grpc", 80, tmp_path / "requests", path=PATH, per_second=10)
    assert Order.load(order.dump()) == order
    times = Latency.of_seconds([0.001, 0.002, 3.0])
    outcome = Outcome(10, 9.5, times, times, times, 3, {"HTTP 503": 2}, 1, 0, 0.5, times, times)
    again = Outcome.load(outcome.dump())
    known = replace(again, latency=times, service=times, lateness=times, answers=times, refusals=times)
    assert known == outcome
    assert again.latency.curve() == times.curve()
    assert again.failed == 2


def test_latencies_have_three_digits_and_can_be_merged() -> None:
    fast, slow = Latency.of_seconds([0.000_1] * 99), Latency.of_seconds([1.0])
    both = fast.merged(slow)
    assert both.calls == 100
    assert both.us(50) == 100
    assert both.us(100) == pytest.approx(1e6, rel=0.001)
    assert Latency().us(99) == 0


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"connections": 1001}, {"per_second": 0.0}])
def test_an_order_that_cannot_be_carried_out_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Order("http1", 80, Path("requests"), **wrong)  # type: ignore[arg-type]


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    file = write_requests(tmp_path / "messages", [b"x" * 1200, b"", b"y" * 700])
    assert list(read_requests(file)) == [b"x" * 1200, b"", b"y" * 700]
    return file


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("per_second", [None, 300.0])
def test_grpc_servers_are_measured(transport: str, per_second: float | None, messages: Path) -> None:
    with python_server("bench.tools.noop_server", transport) as (_, port):
        order = Order(
            "grpc", port, messages, path=PATH, streams=4, per_second=per_second, seconds=1.0, tracing=True
        )
        outcome = perform_on(order, load_core())
    assert outcome.calls == outcome.latency.calls > 0  # a busy machine may leave no time for many
    assert not outcome.failures
    assert 0 < outcome.service.us(50) <= outcome.latency.us(50) <= outcome.latency.us(99)
    if per_second is not None:
        assert outcome.calls == pytest.approx(300, abs=1)


def test_a_static_server_is_measured(messages: Path) -> None:
    with nghttpd(lambda _: None, load_core()) as port:
        if port is None:
            pytest.skip("nghttpd is not installed")
        outcome = perform(Order("grpc", port, messages, path=PATH, seconds=1.0))
    assert outcome.calls > 0
    assert not outcome.failures


def test_failed_calls_are_counted_by_their_reason(messages: Path) -> None:
    with python_server("bench.tools.noop_server", "native") as (_, port):
        outcome = perform(Order("grpc", port, messages, path="/no.Such/Method", per_second=100, seconds=0.2))
    assert outcome.failures == {"grpc-status 12": outcome.calls}


@contextmanager
def http_server(requests_a_connection: int) -> Iterator[int]:
    """A server of HTTP/1.1 that closes each connection after some requests."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for _ in range(requests_a_connection):
                while (line := self.rfile.readline()) != b"\r\n":
                    if not line:
                        return
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_connections_that_the_server_closes_between_requests_are_opened_again(tmp_path: Path) -> None:
    file = write_requests(tmp_path / "requests", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
    with http_server(requests_a_connection=20) as port:
        outcome = perform(Order("http1", port, file, per_second=300, seconds=0.3, warm_up_seconds=0.1))
    assert outcome.calls == pytest.approx(90, abs=1)
    assert outcome.failed <= outcome.calls / 10
