"""Counts and times every call, under the names that dashboards for gRPC servers already know.

On the common path (a handler that returns bytes at once) a call costs two clock readings and three
additions to plain integers; Prometheus samples are built from them only when somebody scrapes. The
counters of prometheus-client take a lock each, three times the cost, and here only the loop counts.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar, assert_never

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from sidecars.transport.api.service import (
    Bidirectional,
    Call,
    ClientStreaming,
    ClientStreamingHandler,
    Code,
    Method,
    ServerStreaming,
    Service,
    StatusError,
    Unary,
    UnaryHandler,
)

BUCKET_SECONDS: Final = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
"""From a decision in memory (tens of µs) past Envoy's 20 ms and 200 ms default timeouts to a stuck fetch.

Both timeouts are bounds, so that alerts can count the calls that Envoy gave up."""


class CallMetrics:
    """Wraps services so that their calls are counted in `registry`. `clock` counts seconds.

    `also_timed` gives the durations of a service's unary calls a second name, with the label grpc_method.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        also_timed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._also_timed = also_timed
        self._tallies: list[_Tally] = []
        registry.register(self)

    def measured(self, service: Service) -> Service:
        """A copy of `service` that counts each of its calls."""
        methods = {
            name: self._measured(service.name, name, method) for name, method in service.methods.items()
        }
        return Service(service.name, methods)

    def collect(self) -> Iterator[Metric]:
        """The current samples, for prometheus-client."""
        labels = ("grpc_type", "grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started_total", "Calls begun.", labels=labels)
        handled = CounterMetricFamily(
            "grpc_server_handled_total", "Calls ended, by status.", labels=(*labels, "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "From the whole request to the reply (unary calls).",
            labels=labels,
        )
        for tally in self._tallies:
            started.add_metric(tally.labels, tally.in_flight + sum(tally.ended))
            for code in Code:
                # OK is present from the start, so that a rate has a first value.
                if tally.ended[code] or code is Code.OK:
                    handled.add_metric((*tally.labels, _CODE_NAMES[code]), tally.ended[code])
            if tally.labels[0] == "unary":
                seconds.add_metric(tally.labels, tally.buckets(), tally.seconds)
        yield from (started, handled, seconds)
        for service, name in self._also_timed.items():
            times = HistogramMetricFamily(name, f"Durations of calls to {service}.", labels=["grpc_method"])
            for tally in self._tallies:
                if tally.labels[:2] == ("unary", service):
                    times.add_metric([tally.labels[2]], tally.buckets(), tally.seconds)
            yield times

    def _measured(self, service: str, name: str, method: Method) -> Method:
        match method:
            case Unary(handler):
                return Unary(_unary(handler, self._tally("unary", service, name), self._clock))
            case ClientStreaming(handler, waits_for_message):
                measured = _one_reply(handler, self._tally("client_stream", service, name))
                return ClientStreaming(measured, waits_for_message=waits_for_message)
            case ServerStreaming(handler):
                return ServerStreaming(_many_replies(handler, self._tally("server_stream", service, name)))
            case Bidirectional(handler):
                return Bidirectional(_many_replies(handler, self._tally("bidi_stream", service, name)))
            case _:
                assert_never(method)

    def _tally(self, kind: str, service: str, name: str) -> "_Tally":
        tally = _Tally((kind, service, name))
        self._tallies.append(tally)
        return tally


_Request = TypeVar("_Request")
_Streaming = Callable[[_Request, Call], AsyncIterator[bytes]]

_CODE_NAMES: Final = {
    code: "OK" if code is Code.OK else "".join(word.capitalize() for word in code.name.split("_"))
    for code in Code
}


class _Tally:
    """The counts of one method."""

    __slots__ = ("counts", "ended", "in_flight", "labels", "seconds")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.in_flight = 0
        """Calls that wait for an answer; no scrape can see one that is answered at once."""
        self.ended = [0] * len(Code)
        self.counts = [0] * (len(BUCKET_SECONDS) + 1)
        self.seconds = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        total = 0
        pairs = []
        for bound, count in zip((*BUCKET_SECONDS, float("inf")), self.counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return pairs

    def end(self, code: Code, seconds: float) -> None:
        self.ended[code] += 1
        self.counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self.seconds += seconds


def _code_of(error: BaseException) -> Code:
    if isinstance(error, StatusError) and error.status.code is not Code.OK:
        return error.status.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else Code.INTERNAL


def _unary(handler: UnaryHandler, tally: _Tally, clock: Callable[[], float]) -> UnaryHandler:
    ended, counts = tally.ended, tally.counts

    def handle(request: bytes, call: Call) -> bytes | Awaitable[bytes]:
        begun = clock()
        try:
            reply = handler(request, call)
        except Exception as error:
            tally.end(_code_of(error), clock() - begun)
            raise
        if not isinstance(reply, bytes):
            if isinstance(reply, asyncio.Future) and not isinstance(reply, asyncio.Task):
                tally.in_flight += 1
                reply.add_done_callback(partial(ended_later, begun))
                return reply
            return finish(reply, begun)
        seconds = clock() - begun
        ended[0] += 1
        counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        tally.seconds += seconds
        return reply

    def ended_later(begun: float, reply: "asyncio.Future[bytes]") -> None:
        tally.in_flight -= 1
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        tally.end(Code.OK if error is None else _code_of(error), clock() - begun)

    async def finish(waiting: Awaitable[bytes], begun: float) -> bytes:
        tally.in_flight += 1
        code = Code.OK
        try:
            return await waiting
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tally.in_flight -= 1
            tally.end(code, clock() - begun)

    return handle


def _one_reply(handler: ClientStreamingHandler, tally: _Tally) -> ClientStreamingHandler:
    async def handle(requests: AsyncIterator[bytes], call: Call) -> bytes:
        tally.in_flight += 1
        code = Code.OK
        try:
            return await handler(requests, call)
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tally.in_flight -= 1
            tally.ended[code] += 1

    return handle


def _many_replies(handler: _Streaming[_Request], tally: _Tally) -> _Streaming[_Request]:
    async def handle(request: _Request, call: Call) -> AsyncIterator[bytes]:
        tally.in_flight += 1
        code = Code.OK
        replies = handler(request, call)
        try:
            async for reply in replies:
                yield reply
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tally.in_flight -= 1
            tally.ended[code] += 1
            # A generator that is left early is closed here, not by the garbage collector.
            if isinstance(replies, AsyncGenerator):
                await replies.aclose()

    return handle
