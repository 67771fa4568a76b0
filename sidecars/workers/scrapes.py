"""Collects the metrics of all workers at the time of a scrape."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from yarl import URL

from sidecars.workers.client import ANSWER_SECONDS, PATIENT_SECONDS, WorkerClient
from sidecars.workers.metrics import MetricTotals, scrape
from sidecars.workers.process import Worker

SUPERVISOR: Final = "supervisor"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"

_log = structlog.get_logger("sidecars.workers")


class WorkerScrapes:
    """Fills `totals` with what the workers and the supervisor's own `registry` count.

    A worker has one request at a time. An answer that misses its page still counts when it comes, so a slow
    worker is one page late in the sums, not missing.
    """

    def __init__(self, client: WorkerClient, registry: CollectorRegistry, totals: MetricTotals) -> None:
        self._client = client
        self._registry = registry
        self._totals = totals
        self._scraping: dict[int, asyncio.Task[None]] = {}
        self._answered: set[int] = set()
        """Workers whose answer came since the last page."""

    async def gather(self) -> CollectorRegistry:
        """The metrics of all workers; those of workers that answer within ANSWER_SECONDS are current."""
        for worker in self._client.workers:
            if worker.number not in self._scraping:
                self._ask(worker)
        await asyncio.wait(tuple(self._scraping.values()), timeout=ANSWER_SECONDS)
        answered, self._answered = self._answered, set()
        self._totals.saw(SUPERVISOR, scrape(self._registry.collect()))
        whether = {worker.number: worker.number in answered for worker in self._client.workers}
        registry = CollectorRegistry()
        families = self._totals.families((SUPERVISOR, *map(str, sorted(answered))))
        registry.register(_Collected([workers_that_answered(whether), *families]))
        return registry

    async def stop(self) -> None:
        """Cancel the pending requests."""
        tasks = tuple(self._scraping.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, worker: Worker) -> None:
        task = self._scraping[worker.number] = asyncio.create_task(self._scrape(worker))
        task.add_done_callback(lambda _: self._scraping.pop(worker.number))

    async def _scrape(self, worker: Worker) -> None:
        """Merge the metrics of `worker` once they come."""
        generation = worker.generation
        accept = {"Accept": OPENMETRICS}  # the one format with exemplars
        page = await self._client.ask(worker, "GET", URL("/metrics"), PATIENT_SECONDS, headers=accept)
        if page is None or page.status != 200:
            return
        try:
            # In a thread: the parser is slow, and must not delay the news that a worker ended.
            found = await asyncio.to_thread(scrape, page.body.decode())
        except ValueError as error:
            _log.error("metrics of a worker cannot be read", worker=worker.number, error=str(error))
            return
        if worker.generation == generation and worker.pid is not None:
            self._totals.saw(str(worker.number), found)
            self._answered.add(worker.number)


def workers_that_answered(answered: Mapping[int, bool]) -> Metric:
    """Return the metric that says, for each worker, whether it answered the last scrape."""
    family = GaugeMetricFamily(
        "sidecars_worker_answered",
        "1 where an answer came since the page before; 0: its counts are those of its last answer.",
        labels=["worker"],
    )
    for number, did in answered.items():
        family.add_metric([str(number)], did)
    return family


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
