"""A span for each check, by OpenTelemetry."""

import asyncio
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.configfile import ConfigError
from protos.authz_pb2 import CheckRequest
from sidecars.services.authz import spans as authz_spans
from sidecars.services.authz.spans import Spans
from sidecars.settings.authz import TracingSettings
from sidecars.transport.api.service import Call, Unary
from tests.support.authority import Authority
from tests.support.authz_sidecar import KEY, SECRET, Built, OneCall, Waiting
from tests.support.checks import check_request

WAIT_SECONDS = 20.0

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


def spans_of(
    built: Built, messages: Sequence[CheckRequest], metadata: dict[str, str | bytes]
) -> list[dict[str, Any]]:
    exporter = InMemorySpanExporter()
    spans = Spans(TracingSettings(), exporter)
    built.sidecar._decisions._sinks = (spans.annotate,)
    handler = spans.traced(built.sidecar.check)
    for message in messages:
        assert isinstance(handler(message.SerializeToString(), OneCall(metadata=metadata)), bytes)
    spans.close()
    return [orjson.loads(span.to_json()) for span in exporter.get_finished_spans()]


def test_a_check_is_a_span_in_the_trace_that_envoy_began(tmp_path: Path) -> None:
    """W3C Trace Context section 3.2."""
    (span,) = spans_of(Built(tmp_path), [check_request(path="/orders", headers=KEY)], dict(PARENT))
    assert span["context"]["trace_id"] == f"0x{TRACE}"
    assert span["parent_id"] == "0x00f067aa0ba902b7"
    attributes = span["attributes"]
    assert (attributes["authz.outcome"], attributes["authz.rule"]) == ("allow", "orders")
    assert SECRET not in repr(span)


@pytest.mark.parametrize("traceparent", [{}, {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}])
def test_what_envoy_does_not_trace_is_not_traced(tmp_path: Path, traceparent: dict[str, str | bytes]) -> None:
    assert spans_of(Built(tmp_path), [check_request(path="/public")], traceparent) == []


async def test_a_check_that_waits_is_one_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(TracingSettings(), exporter)
    built = Built(tmp_path)
    built.sidecar._decisions._sinks = (spans.annotate,)

    class Later:
        async def authenticate(self, request: object, now: float) -> None:
            await asyncio.sleep(0)

    built.sidecar._serving.authorizer._authenticator = Later()
    handler = spans.traced(built.sidecar.check)
    pending = handler(check_request(path="/orders").SerializeToString(), OneCall(metadata=dict(PARENT)))
    assert not isinstance(pending, bytes)
    assert exporter.get_finished_spans() == ()
    await pending
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["authz.reason"] == "credentials_missing"


async def test_a_check_that_was_given_up_before_it_began_is_one_span_too(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(TracingSettings(), exporter)
    built = Built(tmp_path)
    built.sidecar._decisions._sinks = (spans.annotate,)
    built.sidecar._serving.authorizer._authenticator = Waiting()
    handler = spans.traced(built.sidecar.check)
    pending = handler(check_request(path="/orders").SerializeToString(), OneCall(metadata=dict(PARENT)))
    assert not isinstance(pending, bytes)
    task = asyncio.ensure_future(pending)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["authz.reason"] == "cancelled"


async def test_what_goes_wrong_later_is_in_the_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(TracingSettings(), exporter)

    async def fails(_request: bytes, _call: Call) -> bytes:
        raise RuntimeError("a defect")

    pending = spans.traced(fails)(b"", OneCall(metadata=dict(PARENT)))
    assert not isinstance(pending, bytes)
    with pytest.raises(RuntimeError):
        await pending
    await asyncio.sleep(0)
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


def test_tracing_without_its_extra_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match="needs the extra otel"):
        Built(tmp_path, tracing={})


class Collector(ThreadingHTTPServer):
    """Takes spans as a collector does: OTLP over HTTP, protobuf."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/v1/traces"

    @property
    def spans(self) -> list[Any]:
        found = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for one in found for of in one.resource_spans for in_ in of.scope_spans for span in in_.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert self.headers["content-type"] == "application/x-protobuf"
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with served(Collector()) as server:
        yield server


@contextmanager
def served(server: Collector) -> Iterator[Collector]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def test_a_collector_gets_the_spans_over_http(tmp_path: Path, collector: Collector) -> None:
    built = Built(tmp_path, tracing={"endpoint": collector.endpoint, "service_name": "edge"})
    (service,) = [one for one in built.sidecar.services if one.name.endswith("Authorization")]
    (method,) = service.methods.values()
    message = check_request(path="/orders", headers=KEY).SerializeToString()
    assert isinstance(method, Unary)
    assert isinstance(method.handler(message, OneCall(metadata=dict(PARENT))), bytes)
    await built.sidecar.stop()
    (span,) = collector.spans
    assert (span.name, span.trace_id.hex()) == ("authz.check", TRACE)
    assert ("authz.rule", "orders") in {(one.key, one.value.string_value) for one in span.attributes}
    assert b"edge" in collector.bodies[0]


@pytest.mark.parametrize("identified", [True, False])
def test_a_certificate_without_authority_key_identifier_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, identified: bool
) -> None:
    """By every Python: before 3.13 the default of the exporter is to take it."""
    authority = Authority("private", identified=identified)
    pair = authority.sign("localhost")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca.pem"))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which requests would prefer
        monkeypatch.delenv(name, raising=False)
    with served(Collector(context)) as collector:
        spans = Spans(TracingSettings(endpoint=collector.endpoint, root_sample_rate=1.0))
        spans._tracer.start_span("check").end()
        spans.close()
        assert len(collector.bodies) == identified
    assert ("Missing Authority Key Identifier" in caplog.text) is not identified


def test_a_collector_that_is_away_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several batches would be tried for as long as one may take."""
    monkeypatch.setattr(authz_spans, "EXPORT_SECONDS", 0.2)
    stuck, done = threading.Event(), threading.Event()
    spans = Spans(TracingSettings())

    def shutdown() -> None:
        stuck.wait(WAIT_SECONDS)
        done.set()

    monkeypatch.setattr(spans._provider, "shutdown", shutdown)
    spans.close()
    assert not done.is_set()
    stuck.set()
