"""Reads from Envoy's admin interface how many access log entries Envoy wrote, sent and dropped."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import aiohttp
import orjson
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.http_body import read_at_most
from sidecars.transport.api.address import TcpAddress, UnixAddress

EVERY_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 2.0

MAX_PAGE_BYTES: Final = 1024 * 1024
"""The filtered page has half a kilobyte."""

PREFIX: Final = "access_logs.grpc_access_log."
NAMES: Final = ("logs_written", "logs_dropped", "grpc_entries_flushed", "grpc_entries_flush_failed")
"""Envoy's counters over all of its access loggers; the last two are since Envoy 1.39. Entries of TCP are in
`grpc_entries_flushed` alone."""

_PAGE: Final = f"/stats?format=json&filter=^{PREFIX}"

_log = structlog.get_logger("sidecars.accesslog")


class EnvoyStats(Collector):
    """Envoy's counters as metrics, and what it sent since the first look that did not arrive here.

    `received` is the number of entries received here.
    """

    def __init__(
        self, address: TcpAddress | UnixAddress, received: Callable[[], int], *, with_gap: bool = True
    ) -> None:
        self._address = address
        self._received = received
        self._with_gap = with_gap
        """Not where several workers share what Envoy sends."""
        self._counts: dict[str, int] = {}
        self._base: tuple[int, int] | None = None
        self._arrived = 0
        self.failing = False

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Read the counters once. Logs the first failure in a row."""
        try:
            counts = await self._read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, LookupError) as error:
            if not self.failing:
                self.failing = True
                text = str(error) or type(error).__name__
                _log.error("envoy_admin does not answer", address=str(self._address), error=text)
            return
        if self.failing:
            self.failing = False
            _log.warning("envoy_admin answers again", address=str(self._address))
        self._take(counts, self._received())

    def collect(self) -> Iterator[Metric]:
        """The counters as of the last look."""
        yield GaugeMetricFamily(
            "accesslog_envoy_admin_failing", "1 while Envoy's admin interface does not answer.", self.failing
        )
        counters = CounterMetricFamily(
            "accesslog_envoy_entries",
            "Envoy's counters access_logs.grpc_access_log.*, over all its loggers.",
            labels=["counter"],
        )
        for name, count in self._counts.items():
            counters.add_metric([name], count)
        yield counters
        missing = GaugeMetricFamily(
            "accesslog_envoy_missing_entries",
            "Entries that Envoy sent since this process first asked it, and that did not arrive here.",
            labels=[],
        )
        if self.gap is not None:
            missing.add_metric([], self.gap)
        yield missing

    @property
    def gap(self) -> int | None:
        """What Envoy sent and this process did not receive.

        None before Envoy has answered, and where other processes receive entries, too.
        """
        if self._base is None or not self._with_gap:
            return None
        sent, received = self._base
        return self._sent - sent - (self._arrived - received)

    @property
    def _sent(self) -> int:
        # Before Envoy 1.39 there is only the number that went into its buffer.
        return self._counts.get("grpc_entries_flushed", self._counts.get("logs_written", 0))

    def _take(self, counts: dict[str, int], received: int) -> None:
        restarted = any(counts.get(name, 0) < count for name, count in self._counts.items())
        self._counts, self._arrived = counts, received
        if self._base is None or restarted:
            self._base = (self._sent, received)

    async def _read(self) -> dict[str, int]:
        address = self._address
        if isinstance(address, UnixAddress):
            path = "\0" + address.path[1:] if address.abstract else address.path
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path=path)
            origin = "http://envoy"
        else:
            connector = aiohttp.TCPConnector()
            origin = f"http://{address}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(origin, connector=connector, timeout=timeout, trust_env=False) as client,
            client.get(_PAGE, raise_for_status=True, allow_redirects=False) as response,
        ):
            page = orjson.loads(await read_at_most(response.content, MAX_PAGE_BYTES))
        found = {
            str(stat["name"]).removeprefix(PREFIX): int(stat["value"])
            for stat in page["stats"]
            if "name" in stat
        }
        return {name: found[name] for name in NAMES if name in found}
