"""One answer made of those of several workers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecars.admin.index import OWN_PAGES, index_page, links_in, others_in
from sidecars.admin.totals import add_up
from sidecars.transport.api.address import UnixAddress
from sidecars.workers import client as worker_client
from sidecars.workers import scrapes as worker_scrapes
from sidecars.workers.admin_proxy import AdminProxy
from sidecars.workers.metrics import MetricTotals, Scrape, scrape
from sidecars.workers.process import Worker, WorkerPhase


class Ready:
    """A worker that answers with `page`, as its supervisor sees it; one with `hangs` set takes its time."""

    def __init__(self, number: int, page: str = "", decisions: Sequence[Mapping[str, Any]] = ()) -> None:
        self.number = number
        self.pid: int | None = 1
        self.generation = 1
        self.phase = WorkerPhase.READY
        self.page = page
        self.decisions = decisions
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.posts: list[bytes] = []
        self.restarts = self.failures = 0
        self.exit_description = "never"

    @property
    def serves(self) -> bool:
        return self.phase is WorkerPhase.READY

    async def metrics(self, _: web.Request) -> web.Response:
        await self.goes_on.wait()
        return web.Response(text=self.page)

    async def recent(self, request: web.Request) -> web.Response:
        await self.goes_on.wait()
        limit = request.query.get("limit", "100")
        if not limit.isdigit():
            return web.Response(status=400, text="limit is a number\n")
        return web.json_response({"decisions": list(self.decisions[: int(limit)])})

    async def state(self, _: web.Request) -> web.Response:
        await self.goes_on.wait()
        return web.json_response({"number": self.number})

    async def index(self, _: web.Request) -> web.Response:
        return index_page(["/metrics", "/state", "/a&b"], ["POST /do", "POST /<x>"])

    async def post(self, request: web.Request) -> web.Response:
        await self.goes_on.wait()
        self.posts.append(await request.read())
        return web.Response(status=201, text=f"done by {self.number}\n")


@asynccontextmanager
async def listening(app: web.Application, path: str) -> AsyncIterator[None]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asked_for_all(
    folder: Path, totals: MetricTotals, *workers: Ready
) -> AsyncIterator[aiohttp.ClientSession]:
    """A block in which the pages of the workers are served as those of a supervisor."""
    addresses = [UnixAddress(f"{folder}/{worker.number}") for worker in workers]
    pages = AdminProxy(
        cast("list[Worker]", workers), addresses, lambda: (True, "ready"), CollectorRegistry(), totals
    )
    async with AsyncExitStack() as stack:
        for worker, address in zip(workers, addresses, strict=True):
            app = web.Application()
            app.router.add_get("/metrics", worker.metrics)
            app.router.add_get("/decisions", worker.recent)
            app.router.add_get("/state", worker.state)
            app.router.add_get("/", worker.index)
            app.router.add_get("/config", worker.state)
            app.router.add_post("/do", worker.post)
            await stack.enter_async_context(listening(app, address.path))
        await stack.enter_async_context(listening(pages.app, f"{folder}/all"))
        pages.open()
        stack.push_async_callback(pages.close)
        for worker in workers:
            stack.callback(worker.goes_on.set)  # before their servers end
        connector = aiohttp.UnixConnector(f"{folder}/all")
        yield await stack.enter_async_context(aiohttp.ClientSession("http://all", connector=connector))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers may take longer to answer than they may in operation: a busy machine is slow."""
    monkeypatch.setattr(worker_client.WorkerClient.ask_all, "__defaults__", (worker_client.PATIENT_SECONDS,))


async def metrics(client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.get("/metrics") as answer:
        return answer.status, await answer.text()


async def test_a_worker_that_ends_while_the_next_is_read_breaks_no_page_and_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "# TYPE calls counter\ncalls_total {}\n# TYPE open gauge\nopen 1\n"
    totals, first, second = MetricTotals(), Ready(0, page.format(2)), Ready(1, page.format(3))
    loop, read = asyncio.get_running_loop(), threading.Event()

    def scrape_as_the_first_ends(text: Any) -> Scrape:
        if text == first.page:
            found = scrape(text)
            read.set()
            return found
        if text == second.page:  # read in a thread, while the loop goes on
            read.wait(20)
            asyncio.run_coroutine_threadsafe(end_first(), loop).result()
        return scrape(text)

    async def end_first() -> None:
        while True:
            if "0" in totals._seen:
                break
            await asyncio.sleep(0)
        first.pid = None
        first.phase = WorkerPhase.ENDED
        totals.ended("0")

    monkeypatch.setattr(worker_scrapes, "scrape", scrape_as_the_first_ends)
    async with asyncio.timeout(20), asked_for_all(tmp_path, totals, first, second) as client:
        status, text = await metrics(client)
        assert status == 200
        assert "calls_total 5.0" in text
        assert 'open{worker="1"} 1.0' in text
        assert 'open{worker="0"}' not in text
        assert "calls_total 5.0" in (await metrics(client))[1]


COUNTS = "# TYPE calls counter\ncalls_total {}\n# TYPE open gauge\nopen 1\n"


async def test_a_worker_that_hangs_takes_no_page_with_it(tmp_path: Path) -> None:
    totals, well, hangs = MetricTotals(), Ready(0, COUNTS.format(2)), Ready(1, COUNTS.format(3))
    async with asyncio.timeout(20), asked_for_all(tmp_path, totals, well, hangs) as client:
        assert "calls_total 5.0" in (await metrics(client))[1]
        well.page, hangs.page = COUNTS.format(4), COUNTS.format(9)
        hangs.goes_on.clear()
        status, text = await metrics(client)
        assert status == 200
        assert "calls_total 7.0" in text  # the last of the one that hangs
        assert 'sidecars_worker_answered{worker="0"} 1.0' in text
        assert 'sidecars_worker_answered{worker="1"} 0.0' in text
        assert 'open{worker="1"}' not in text
        for page, answered in (
            ("/decisions", {"decisions": [], "workers_without_answer": [1]}),
            ("/state", {"workers": [answer(0), {"worker": 1, "status": None, "answer": None}]}),
        ):
            async with client.get(page) as response:
                assert await response.json() == answered
        async with client.get("/config") as response:
            assert [one["config"] for one in (await response.json())["workers"]] == [{"number": 0}, None]


def answer(number: int) -> dict[str, Any]:
    return {"worker": number, "status": 200, "answer": {"number": number}}


async def test_metrics_that_come_late_are_in_the_next_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with very many series is slow at each scrape, and must not be missing from all."""
    monkeypatch.setattr(worker_scrapes, "ANSWER_SECONDS", 0.01)
    totals, slow = MetricTotals(), Ready(0, COUNTS.format(2))
    slow.goes_on.clear()
    async with asyncio.timeout(20), asked_for_all(tmp_path, totals, slow) as client:
        assert "calls_total" not in (await metrics(client))[1]
        slow.goes_on.set()
        while True:
            if "0" in totals._seen:
                break
            await asyncio.sleep(0.01)
        slow.goes_on.clear()  # it is as slow at the next one
        text = (await metrics(client))[1]
        assert "calls_total 2.0" in text
        assert 'open{worker="0"} 1.0' in text
        assert 'sidecars_worker_answered{worker="0"} 1.0' in text


async def test_metrics_that_cannot_be_read_are_those_of_a_worker_without_answer(tmp_path: Path) -> None:
    async with asyncio.timeout(20), asked_for_all(tmp_path, MetricTotals(), Ready(0, "calls{ 1\n")) as client:
        status, text = await metrics(client)
        assert status == 200
        assert 'sidecars_worker_answered{worker="0"} 0.0' in text


def decisions(*seconds: int) -> list[dict[str, Any]]:
    """Newest first, as a worker tells them."""
    return [
        {"time": f"2026-01-01T00:00:{second:02}.000+00:00", "decision_id": str(second)} for second in seconds
    ]


@pytest.mark.usefixtures("patience")
async def test_the_newest_decisions_of_all_workers_are_as_many_as_asked_for(tmp_path: Path) -> None:
    """Each worker gave N, so there were 2 N, and no order between them."""
    workers = Ready(0, decisions=decisions(9, 5, 4)), Ready(1, decisions=decisions(8, 7, 1))
    async with asyncio.timeout(20), asked_for_all(tmp_path, MetricTotals(), *workers) as client:
        async with client.get("/decisions?limit=3") as response:
            found = await response.json()
            assert response.headers["Cache-Control"] == "no-store"
        assert [one["decision_id"] for one in found["decisions"]] == ["9", "8", "7"]
        assert found["workers_without_answer"] == []
        async with client.get("/decisions") as response:
            assert len((await response.json())["decisions"]) == 6
        async with client.get("/decisions?limit=x") as response:
            assert (response.status, await response.text()) == (400, "limit is a number\n")


@pytest.mark.usefixtures("patience")
async def test_the_index_names_each_page_of_the_workers_once(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(20),
        asked_for_all(tmp_path, MetricTotals(), Ready(0), Ready(1)) as client,
        client.get("/") as response,
    ):
        page = await response.text()
    assert links_in(page) == [*OWN_PAGES, "/state", "/a&b"]
    assert others_in(page) == ["POST /do", "POST /<x>"]


async def test_a_page_that_no_worker_has_is_answered_as_they_do(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(20),
        asked_for_all(tmp_path, MetricTotals(), Ready(0), Ready(1)) as client,
        client.get("/nothing") as response,
    ):
        assert response.status == 404


async def test_where_no_worker_answers_the_page_says_so(tmp_path: Path) -> None:
    ended = Ready(0)
    ended.phase = WorkerPhase.ENDED
    async with asyncio.timeout(20), asked_for_all(tmp_path, MetricTotals(), ended) as client:
        for request in (client.get("/decisions"), client.get("/state"), client.post("/do")):
            async with request as response:
                assert (response.status, await response.text()) == (503, "no worker answers\n")


async def test_what_changes_something_is_done_by_one_worker_that_serves(tmp_path: Path) -> None:
    """A logout was answered 503 for as long as any worker was being restarted."""
    first, second = Ready(0), Ready(1)
    async with asyncio.timeout(20), asked_for_all(tmp_path, MetricTotals(), first, second) as client:
        for phase, by in (
            (WorkerPhase.READY, first),
            (WorkerPhase.STARTING, second),
            (WorkerPhase.ENDED, second),
        ):
            first.phase = phase
            async with client.post("/do", data=b"x") as response:
                assert (response.status, await response.text()) == (201, f"done by {by.number}\n")
        first.phase = WorkerPhase.DRAINING  # it would answer, but means to end
        async with client.post("/do", data=b"x") as response:
            assert await response.text() == "done by 1\n"
    assert (first.posts, second.posts) == ([b"x"], [b"x"] * 3)


async def test_of_a_worker_that_hangs_nothing_is_asked_that_another_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "PATIENT_SECONDS", 0.1)
    hangs, well = Ready(0), Ready(1)
    hangs.goes_on.clear()
    async with asyncio.timeout(20), asked_for_all(tmp_path, MetricTotals(), hangs, well) as client:
        async with client.post("/do") as response:
            assert await response.text() == "done by 1\n"
        monkeypatch.setattr(worker_client, "PATIENT_SECONDS", 1000.0)
        async with client.post("/do") as response:
            assert await response.text() == "done by 1\n"


def test_totals_are_summed_also_where_only_some_workers_have_a_name() -> None:
    first = {"calls": {"a": {"ended": 2, "buckets": [1, 1]}}, "processes": 1}
    other = {"calls": {"a": {"ended": 3, "buckets": [0, 3]}, "b": {"ended": 1}}, "processes": 1}
    assert add_up([first, other]) == {
        "calls": {"a": {"ended": 5, "buckets": [1, 4]}, "b": {"ended": 1}},
        "processes": 2,
    }
