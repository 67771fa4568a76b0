"""Quotas for Envoys: `envoy.service.rate_limit_quota.v3.RateLimitQuotaService` over `ratelimit.quota`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import chain
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from common.background import Composite
from common.tasks import cancel_and_wait
from ratelimit.limiter import Limiter
from ratelimit.quota.assignment import Action
from ratelimit.quota.limit import BucketId
from ratelimit.quota.metrics import QuotaCollector
from ratelimit.quota.quotas import Quotas, Subscriber
from ratelimit.quota.refused import QuotaError, Refused
from ratelimit.quota.wire import read_report, write_actions
from ratelimit.rules import CompiledLimits
from sidecars.services.message_reader import Reader
from sidecars.services.ratelimit_reload import retire
from sidecars.services.sidecar import Dependencies
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.transport.api.service import Bidirectional, Call, Code, Service, StatusError

SERVICE: Final = "envoy.service.rate_limit_quota.v3.RateLimitQuotaService"

REFRESH_SECONDS: Final = 1.0
"""Between two looks whether the limits, or the number of sidecars, have changed, or assignments expired."""

TURN_SECONDS: Final = 0.001
"""How long a reload with many buckets holds up the event loop at a time."""

_log = structlog.get_logger("sidecars.ratelimit")


class _Stream:
    """One open call: what waits to be sent, the newest action for each bucket."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self.reader = Reader(messages)
        self.subscriber = Subscriber(self._deliver)
        self.something = asyncio.Event()
        """Set when there is something to send, and at the end."""
        self._waiting: dict[tuple[tuple[str, str], ...], tuple[BucketId, Action]] = {}

    def _deliver(self, bucket_id: BucketId, action: Action) -> None:
        self._waiting[tuple(bucket_id.items())] = bucket_id, action
        self.something.set()

    @property
    def has_something(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._waiting)

    def take(self) -> list[tuple[BucketId, Action]]:
        """What waits to be sent, which is sent then."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        self.something.clear()
        return taken


class QuotaService:
    """Serves the streams of Envoys. `limits` returns those in service."""

    def __init__(self, quotas: Quotas, limits: Callable[[], CompiledLimits]) -> None:
        self._quotas = quotas
        self._limits = limits
        self._streams: set[_Stream] = set()
        self._finished = False
        self._refreshing: asyncio.Task[None] | None = None
        self.service = Service(SERVICE, {"StreamRateLimitQuotas": Bidirectional(self.stream)})

    async def stream(self, messages: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        """StreamRateLimitQuotas: assignments follow reports, reloads, and Envoys that come.

        Raises StatusError: INVALID_ARGUMENT for bytes that are not a report, and for a domain that is missing
        or changes, RESOURCE_EXHAUSTED beyond `max_streams`. Envoy then opens another stream within 5 s.
        """
        stream = _Stream(messages)
        self._begin(stream)
        reading = asyncio.create_task(self._read(stream))
        reading.add_done_callback(lambda _: stream.something.set())
        try:
            while True:
                await stream.something.wait()
                if actions := stream.take():
                    yield write_actions(actions)
                if reading.done() and not stream.has_something:
                    break
            reading.result()
        finally:
            self._streams.discard(stream)
            self._quotas.close(stream.subscriber)
            await cancel_and_wait(reading)

    def _begin(self, stream: _Stream) -> None:
        try:
            self._quotas.open(stream.subscriber)
        except QuotaError as error:
            raise StatusError(Code.RESOURCE_EXHAUSTED, str(error)) from None
        self._streams.add(stream)
        if self._finished:
            stream.reader.stop()

    async def _read(self, stream: _Stream) -> None:
        while (message := await stream.reader.next()) is not None:
            try:
                self._quotas.report(stream.subscriber, read_report(message))
            except DecodeError:
                error = self._quotas.refusal(
                    Refused.NOT_A_REPORT, "the message is not RateLimitQuotaUsageReports"
                )
                raise StatusError(Code.INVALID_ARGUMENT, str(error)) from None
            except QuotaError as error:
                raise StatusError(Code.INVALID_ARGUMENT, str(error)) from None

    def start(self) -> None:
        """Begin to follow the limits, and the number of sidecars."""
        self._refreshing = asyncio.create_task(self._refresh(), name="quotas")

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self._follow()
            except Exception:  # a defect must not end what follows the limits
                _log.exception("quotas cannot follow the limits")

    async def _follow(self) -> None:
        """Deliver what changes with the limits and with time, and let the loop answer in between."""
        clock = asyncio.get_running_loop().time
        replaced: list[Composite] = [self._quotas.limits]
        due = clock() + TURN_SECONDS
        for _ in chain(self._quotas.refresh(self._limits()), self._quotas.serve_waiting()):
            if clock() >= due:
                await asyncio.sleep(0)
                due = clock() + TURN_SECONDS
        if replaced[0] is not self._quotas.limits:
            retire(replaced)

    def finish_streams(self) -> None:
        """End every stream with OK, so that its Envoy opens one to the process that follows."""
        self._finished = True
        for stream in self._streams:
            stream.reader.stop()

    async def stop(self) -> None:
        """End what `start` began."""
        if self._refreshing is not None:
            await cancel_and_wait(self._refreshing)

    def describe(self) -> dict[str, Any]:
        """The state for `/config`."""
        quotas = self._quotas
        return {"streams": quotas.streams, "buckets": quotas.buckets, "ledgers": len(quotas.ledgers)}


def quota_service(
    settings: RatelimitSettings, limiter: Limiter, replicas: Callable[[], int], dependencies: Dependencies
) -> QuotaService:
    """The service, with its metrics. `replicas` returns the number of sidecars that share each limit."""
    quotas = Quotas(
        limiter.limits,
        dependencies.monotonic_clock,
        settings.quota.bounds,
        stats=limiter.stats,
        replicas=replicas,
        shadow_mode=settings.shadow_mode,
    )
    dependencies.registry.register(QuotaCollector(quotas))
    return QuotaService(quotas, lambda: limiter.limits)
