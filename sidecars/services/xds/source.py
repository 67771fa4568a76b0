"""The limits of a ratelimit sidecar that a management server sends, next to those in its files."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.configfile import ConfigError, Document
from common.pairs_file import pairs_in
from common.tasks import cancel_and_wait
from ratelimit.config import check_reload
from ratelimit.limiter import Limiter
from sidecars.observability.process_metrics import package_version
from sidecars.services.ratelimit_reload import PreparedLimits, prepare_limits
from sidecars.services.xds.client import XdsClient
from sidecars.services.xds.limits import SentLimits, keep
from sidecars.settings.ratelimit import RatelimitSettings
from sidecars.settings.xds import XdsSettings

_EMPTY: Final = (
    "the server sent no limits, which would remove all that it sent before; xds.allow_empty: true permits it"
)

_log = structlog.get_logger("sidecars.ratelimit")


class XdsSource:
    """Puts what a management server sends into service, if it can be loaded together with the files.

    `documents` are its limits in service.
    """

    def __init__(
        self,
        settings: RatelimitSettings,
        xds: XdsSettings,
        limiter: Limiter,
        documents: Sequence[Document],
        random: Callable[[], float],
    ) -> None:
        self.documents = documents
        self._settings = settings
        self._xds = xds
        self._limiter = limiter
        self.client = XdsClient(
            xds,
            self.use,
            agent=package_version(),
            headers=partial(pairs_in, xds.headers_file, ":"),
            random=random,
        )
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask the server, which may be away."""
        self._running = asyncio.create_task(self.client.run(), name="xds")

    async def stop(self) -> None:
        """End the stream."""
        if self._running is not None:
            await cancel_and_wait(self._running)

    async def use(self, sent: SentLimits) -> None:
        """Put `sent` into service, and keep it. Raises ConfigError, and changes nothing then."""
        try:
            documents = await asyncio.to_thread(sent.documents)
            if not documents and self.documents and not self._xds.allow_empty:
                raise ConfigError.of("xds", _EMPTY)
            prepared = await self._prepared(documents)
        except ConfigError:
            self._limiter.stats.failed_loads += 1
            raise
        self.documents = documents
        prepared.put_into_service(self._limiter)
        if self._xds.state_file is not None:
            try:
                await asyncio.to_thread(keep, sent, self._xds.state_file)
            except ConfigError as error:
                _log.warning("limits of the management server are not kept", error=str(error))

    async def _prepared(self, documents: Sequence[Document]) -> PreparedLimits:
        limiter = self._limiter
        while True:
            before = limiter.limits
            prepared = await asyncio.to_thread(prepare_limits, self._settings, documents, limiter.stats)
            if limiter.limits is before:  # else the files have changed by now
                check_reload(before, prepared.limits)
                return prepared

    def describe(self) -> dict[str, Any]:
        """The state for `/config`."""
        client = self.client
        return {
            "server": self._xds.server,
            "connected": client.connected,
            "trouble": client.trouble or None,
            "version": client.version or None,
            "rejection": client.rejection or None,
            "domains": len(self.documents),
        }


class XdsCollector(Collector):
    """Prometheus metrics of the stream to a management server."""

    def __init__(self, client: XdsClient) -> None:
        self._client = client

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        client = self._client
        yield GaugeMetricFamily(
            "ratelimit_xds_connected",
            "1 while a stream to the management server is open, else 0.",
            value=client.connected,
        )
        yield GaugeMetricFamily(
            "ratelimit_xds_rejected",
            "1 while the last limits of the management server are not in service, else 0.",
            value=bool(client.rejection),
        )
        responses = CounterMetricFamily(
            "ratelimit_xds_responses", "Responses of the management server.", labels=["result"]
        )
        for result, times in client.responses.items():
            responses.add_metric([result.value], times)
        yield responses
