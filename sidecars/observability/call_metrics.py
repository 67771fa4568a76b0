"""Counts and times every call, under the names that dashboards for gRPC servers already know.

On the common path (a handler that returns bytes at once) a call costs two clock readings and three
additions to plain integers; Prometheus samples are built from them only when somebody scrapes. The
counters of prometheus-client take a lock each, three times the cost, and here only the loop counts.

Exemplars are those of OpenMetrics: the first call of each bucket after a scrape is kept, so that others cost
one test. The labels are read from its reply at the scrape.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, TypeVar, assert_never

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar

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


_LabelsOf = Callable[[bytes], Mapping[str, str]]


class CallMetrics:
    """Wraps services so that their calls are counted in `registry`. `clock` counts seconds.

    `wall_clock` returns seconds since 1970, for the exemplars.
    `also_timed` gives the durations of a service's unary calls a second name, with the label grpc_method.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        also_timed: Mapping[str, str] = MappingProxyType({}),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._also_timed = also_timed
        self._tallies: list[_Tally] = []
        registry.register(self)

    def measured(self, service: Service) -> Service:
        """A copy of `service` that counts each of its calls."""
        methods = {
            name: self._measured(service.name, name, method) for name, method in service.methods.items()
        }
        return Service(service.name, methods)

    def totals(self) -> dict[str, dict[str, Any]]:
        """The calls of each service since the start: `ended`, `codes`, and `seconds` of unary calls.

        `buckets` are unary calls by duration, in the order of BUCKET_SECONDS and not cumulative.
        """
        found: dict[str, dict[str, Any]] = {}
        for tally in self._tallies:
            one = found.setdefault(
                tally.labels[1], {"ended": 0, "codes": {}, "seconds": 0.0, "buckets": [0] * len(tally.counts)}
            )
            one["ended"] += sum(tally.ended)
            one["seconds"] += tally.seconds
            one["buckets"] = [was + more for was, more in zip(one["buckets"], tally.counts, strict=True)]
            for code in Code:
                if tally.ended[code]:
                    one["codes"][_CODE_NAMES[code]] = (
                        one["codes"].get(_CODE_NAMES[code], 0) + tally.ended[code]
                    )
        return found

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
        shed = CounterMetricFamily(
            "grpc_server_shed", "Unary calls refused because they had waited too long.", labels=labels
        )
        since_1970 = self._wall_clock() - self._clock()
        for tally in self._tallies:
            started.add_metric(tally.labels, tally.in_flight + sum(tally.ended))
            for code in Code:
                # OK is present from the start, so that a rate has a first value.
                if tally.ended[code] or code is Code.OK:
                    handled.add_metric((*tally.labels, _CODE_NAMES[code]), tally.ended[code])
            if tally.labels[0] == "unary":
                seconds.add_metric(tally.labels, tally.buckets(since_1970), tally.seconds)
                shed.add_metric(tally.labels, tally.shed)
        yield from (started, handled, seconds, shed)
        for service, name in self._also_timed.items():
            times = HistogramMetricFamily(name, f"Durations of calls to {service}.", labels=["grpc_method"])
            for tally in self._tallies:
                if tally.labels[:2] == ("unary", service):
                    times.add_metric([tally.labels[2]], tally.buckets(since_1970), tally.seconds)
            yield times

    def _measured(self, service: str, name: str, method: Method) -> Method:
        match method:
            case Unary(handler, exemplar):
                tally = self._tally("unary", service, name, exemplar)
                return Unary(_unary(handler, tally, self._clock), urgent=method.urgent, shed=tally.shed_one)
            case ClientStreaming(handler):
                measured = _one_reply(handler, self._tally("client_stream", service, name))
                return replace(method, handler=measured)
            case ServerStreaming(handler):
                return ServerStreaming(_many_replies(handler, self._tally("server_stream", service, name)))
            case Bidirectional(handler):
                return Bidirectional(_many_replies(handler, self._tally("bidi_stream", service, name)))
            case _:
                assert_never(method)

    def _tally(self, kind: str, service: str, name: str, exemplar: _LabelsOf | None = None) -> "_Tally":
        tally = _Tally((kind, service, name), exemplar)
        self._tallies.append(tally)
        return tally


_Request = TypeVar("_Request")
_Streaming = Callable[[_Request, Call], AsyncIterator[bytes]]

_CODE_NAMES: Final = {
    code: "OK" if code is Code.OK else "".join(word.capitalize() for word in code.name.split("_"))
    for code in Code
}


_KeptCall = tuple[bytes, float, float]
"""The reply of a call, its seconds, and when it began on the clock."""

_BOUNDS: Final = (*map(str, BUCKET_SECONDS), "+Inf")


class _Tally:
    """The counts of one method."""

    __slots__ = (
        "_exemplars", "_labels_of", "counts", "ended", "in_flight", "kept", "labels", "seconds", "shed",
    )  # fmt: skip

    def __init__(self, labels: tuple[str, str, str], labels_of: _LabelsOf | None = None) -> None:
        self.labels = labels
        self.in_flight = 0
        """Calls that wait for an answer; no scrape can see one that is answered at once."""
        self.ended = [0] * len(Code)
        self.counts = [0] * len(_BOUNDS)
        self.seconds = 0.0
        self.shed = 0
        """Calls that were refused unread, because they had waited too long."""
        self._labels_of = labels_of
        self._exemplars: list[Exemplar | None] = [None] * len(_BOUNDS)
        nothing: _KeptCall = (b"", 0.0, 0.0)
        self.kept: list[_KeptCall | None] = [None if labels_of is not None else nothing] * len(_BOUNDS)
        """One call for each bucket since the last scrape; never None where calls have no exemplars."""

    def buckets(self, since_1970: float) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Return cumulative counts and an exemplar by upper bound. Adding `since_1970` makes Unix seconds."""
        self._read_kept(since_1970)
        counts = map(float, accumulate(self.counts))
        return [
            (bound, count) if exemplar is None else (bound, count, exemplar)
            for bound, count, exemplar in zip(_BOUNDS, counts, self._exemplars, strict=True)
        ]

    def end(self, code: Code, seconds: float) -> None:
        self.ended[code] += 1
        self.counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self.seconds += seconds

    def shed_one(self) -> None:
        self.shed += 1
        self.ended[Code.RESOURCE_EXHAUSTED] += 1

    def keep(self, reply: bytes, seconds: float, begun: float) -> None:
        """Keep a call as the exemplar of its bucket, if the bucket has none since the last scrape."""
        bucket = bisect_left(BUCKET_SECONDS, seconds)
        if self.kept[bucket] is None:
            self.kept[bucket] = (reply, seconds, begun)

    def _read_kept(self, since_1970: float) -> None:
        if self._labels_of is None:
            return
        for bucket, call in enumerate(self.kept):
            if call is not None:
                reply, seconds, begun = call
                self.kept[bucket] = None
                labels = self._labels_of(reply)
                if labels:
                    ended_at = since_1970 + begun + seconds
                    self._exemplars[bucket] = Exemplar(dict(labels), seconds, ended_at)


def _code_of(error: BaseException) -> Code:
    if isinstance(error, StatusError) and error.status.code is not Code.OK:
        return error.status.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else Code.INTERNAL


def _unary(handler: UnaryHandler, tally: _Tally, clock: Callable[[], float]) -> UnaryHandler:
    ended, counts, kept = tally.ended, tally.counts, tally.kept

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
        bucket = bisect_left(BUCKET_SECONDS, seconds)
        ended[0] += 1
        counts[bucket] += 1
        tally.seconds += seconds
        if kept[bucket] is None:
            kept[bucket] = (reply, seconds, begun)
        return reply

    def ended_later(begun: float, reply: "asyncio.Future[bytes]") -> None:
        tally.in_flight -= 1
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        seconds = clock() - begun
        tally.end(Code.OK if error is None else _code_of(error), seconds)
        if error is None:
            tally.keep(reply.result(), seconds, begun)

    async def finish(waiting: Awaitable[bytes], begun: float) -> bytes:
        tally.in_flight += 1
        code, answer = Code.OK, None
        try:
            answer = await waiting
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tally.in_flight -= 1
            seconds = clock() - begun
            tally.end(code, seconds)
            if answer is not None:
                tally.keep(answer, seconds, begun)
        return answer

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
