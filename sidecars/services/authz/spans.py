"""A span for each check, in the trace that Envoy began (W3C Trace Context), by OpenTelemetry."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Any, Final

from authz.credentials.core.outbound import VERIFY_FLAGS
from authz.engine.decision_record import DecisionRecord
from common.configfile import SETTINGS, ConfigError, Problem
from common.redaction import Secrets
from sidecars.settings.authz import TracingSettings
from sidecars.transport.api.service import Call, UnaryHandler

NAME: Final = "authz.check"

SECRETS: Final = Secrets()
"""A host needs none of the names that a policy adds."""

EXPORT_SECONDS: Final = 2.0
"""Time for one batch with its retries, and for all that is left at the end. The SDK would wait 10 s for each
batch, which is more than orchestrators grant, when the collector is away."""


class Spans:
    """Makes spans. Raises ConfigError where OpenTelemetry is not installed.

    `exporter` replaces the OTLP exporter of the settings. A thread of the SDK sends spans from its bounded
    queue.
    """

    def __init__(self, settings: TracingSettings, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            text = f"needs the extra otel (in a clone: pip install '.[otel]'): {error.name} is not installed"
            raise ConfigError([Problem(SETTINGS, 0, "authz.tracing", text)]) from error
        self._trace = trace
        self._provider = TracerProvider(
            sampler=ParentBased(root=TraceIdRatioBased(settings.root_sample_rate)),
            resource=Resource.create({"service.name": settings.service_name}),
            shutdown_on_exit=False,
        )
        if exporter is None:
            session = strict_session()
            exporter = OTLPSpanExporter(settings.endpoint, timeout=EXPORT_SECONDS, session=session)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("edge-sidecars")
        self._propagator = TraceContextTextMapPropagator()

    def traced(self, handler: UnaryHandler) -> UnaryHandler:
        """`handler`, each of its calls within a span."""

        def handle(request: bytes, call: Call) -> bytes | Awaitable[bytes]:
            span = self._tracer.start_span(NAME, context=self._parent(call), kind=self._trace.SpanKind.SERVER)
            waiting = None
            try:
                with self._current(span):
                    reply = handler(request, call)
                    if isinstance(reply, bytes):
                        return reply
                    waiting = asyncio.ensure_future(reply)
                # Outside the coroutine: its caller may leave before its first step.
                waiting.add_done_callback(lambda done: self._end(span, done))
                return waiting
            finally:
                if waiting is None:
                    span.end()

        return handle

    def _end(self, span: Any, done: "asyncio.Future[bytes]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            span.record_exception(error)
            span.set_status(self._trace.StatusCode.ERROR, str(error))
        span.end()

    def annotate(self, record_of: DecisionRecord) -> None:
        """Write the decision into the span of the call that is being handled."""
        span = self._trace.get_current_span()
        if not span.is_recording():
            return
        verdict = record_of.verdict
        span.set_attributes(
            {
                "authz.decision_id": record_of.id,
                "authz.outcome": verdict.outcome.value,
                "authz.reason": verdict.reason,
                "authz.rule": verdict.rule,
                "authz.policy_revision": record_of.revision,
                "authz.credential": record_of.credential,
                "http.request.method": record_of.method,
                "server.address": SECRETS.authority(record_of.host, "", []),
            }
        )

    def close(self) -> None:
        """Export what waits; blocks until then or for EXPORT_SECONDS, so call it in a thread."""
        # A thread that is left behind: the SDK's own exports one batch after the other, each with its time.
        leaving = threading.Thread(target=self._provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(EXPORT_SECONDS)

    def _parent(self, call: Call) -> Any:
        carrier = {name: value for name, value in call.metadata.items() if isinstance(value, str)}
        return self._propagator.extract(carrier)

    def _current(self, span: Any) -> AbstractContextManager[Any]:
        return self._trace.use_span(span)


def strict_session() -> Any:
    """A `requests.Session`, as the exporter takes one, that verifies certificates as all of the suite does.

    The authorities are those of the exporter: its environment names them.
    """
    import requests
    from requests.adapters import HTTPAdapter

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= VERIFY_FLAGS

    class Adapter(HTTPAdapter):  # subclassing is how requests takes a context
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options, ssl_context=context)

        def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
            return super().proxy_manager_for(proxy, **options, ssl_context=context)

    session = requests.Session()
    session.mount("https://", Adapter())
    return session
