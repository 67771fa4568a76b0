"""The metrics of all workers, asked for at the moment of the scrape."""

import asyncio
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from yarl import URL

from sidecars.runtime.worker_client import ANSWER_SECONDS, PATIENT_SECONDS, WorkerClient
from sidecars.runtime.worker_metrics import Totals, scrape
from sidecars.runtime.worker_process import Worker

SUPERVISOR = "supervisor"

_log = structlog.get_logger("sidecars.workers")


class WorkerScrapes:
    """Fills `totals` with what the workers and the supervisor's own `registry` count.

    A worker is asked one question at a time. An answer that misses its page is taken all the same when it
    comes, so a worker that is slow, and not away, is one page late in the sums and not missing.
    """

    def __init__(self, client: WorkerClient, registry: CollectorRegistry, totals: Totals) -> None:
        self._client = client
        self._registry = registry
        self._totals = totals
        self._asked: dict[int, asyncio.Task[bool]] = {}

    async def gather(self) -> CollectorRegistry:
        """The metrics of all, with those of the workers that answer within ANSWER_SECONDS up to date."""
        for worker in self._client.workers:
            if worker.number not in self._asked:
                self._ask(worker)
        asked = dict(self._asked)
        await asyncio.wait(asked.values(), timeout=ANSWER_SECONDS)
        answered = {number: task.done() and task.result() for number, task in asked.items()}
        self._totals.saw(SUPERVISOR, scrape(self._registry.collect()))
        fresh = (SUPERVISOR, *(str(number) for number, did in answered.items() if did))
        registry = CollectorRegistry()
        registry.register(_Collected([_answered(answered), *self._totals.families(fresh)]))
        return registry

    async def stop(self) -> None:
        """Wait for no answer any more."""
        asked = tuple(self._asked.values())
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    def _ask(self, worker: Worker) -> None:
        task = self._asked[worker.number] = asyncio.create_task(self._scrape(worker))
        task.add_done_callback(lambda _: self._asked.pop(worker.number))

    async def _scrape(self, worker: Worker) -> bool:
        """Take in the metrics of `worker`; whether it answered."""
        life = worker.life
        page = await self._client.ask(worker, "GET", URL("/metrics"), PATIENT_SECONDS)
        if page is None or page.status != 200:
            return False
        try:
            # In a thread: the parser is slow, and we must hear when a worker ends.
            found = await asyncio.to_thread(scrape, page.body.decode())
        except ValueError as error:
            _log.error("metrics of a worker cannot be read", worker=worker.number, error=str(error))
            return False
        if worker.life != life or worker.pid is None:
            return False
        self._totals.saw(str(worker.number), found)
        return True


def _answered(answered: dict[int, bool]) -> Metric:
    family = GaugeMetricFamily(
        "worker_answered",
        "1 where this page has its latest metrics; 0: its counts are those of its last answer.",
        labels=["worker"],
    )
    for number, did in sorted(answered.items()):
        family.add_metric([str(number)], did)
    return family


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
