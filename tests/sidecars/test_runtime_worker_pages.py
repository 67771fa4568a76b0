"""One answer made of those of several workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecars.runtime import worker_pages
from sidecars.runtime.worker_metrics import Scrape, Totals, scrape
from sidecars.runtime.worker_pages import Said, WorkerPages, merged
from sidecars.runtime.worker_process import Phase, Worker
from sidecars.transport.address import UnixAddress

JSON = {"Content-Type": "application/json; charset=utf-8"}


def said(value: Any, status: int = 200) -> Said:
    return Said(status, orjson.dumps(value), JSON)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[1, 2], [3]], [1, 2, 3]),
        ([{"found": [1]}, {"found": [2]}], {"found": [1, 2]}),
        ([{"revision": "a", "rules": 3}] * 2, {"revision": "a", "rules": 3}),
        ([{"kept": 3}, {"kept": 4}], {"kept": {"0": 3, "1": 4}}),
        ([{"one": 1}, {"two": 2}], {"one": 1, "two": 2}),
        ([{"inner": {"list": [1]}}, {"inner": {"list": [2]}}], {"inner": {"list": [1, 2]}}),
    ],
)
def test_json_answers_become_one(answers: list[Any], expected: Any) -> None:
    answer = merged([said(value) for value in answers])
    assert isinstance(answer.body, bytes)
    assert (answer.status, orjson.loads(answer.body)) == (200, expected)
    assert answer.content_type == "application/json"


def test_what_one_worker_knows_is_found_although_another_does_not() -> None:
    answer = merged([said({"error": "no such decision"}, 404), said([{"id": "d1"}])])
    assert (answer.status, answer.body) == (200, b'[{"id":"d1"}]')


def test_where_no_worker_has_a_good_answer_the_first_one_stands() -> None:
    assert merged([said({"error": "one"}, 404), said({"error": "two"}, 400)]).status == 404


def test_other_texts_follow_one_another() -> None:
    texts = [Said(200, text, {"Content-Type": "text/plain"}) for text in (b"one\n", b"two\n")]
    assert merged(texts).body == b"one\ntwo\n"


def test_no_answer_at_all_is_503() -> None:
    assert merged([]).status == 503


class Ready:
    """A worker that answers with `page`, as its supervisor sees it."""

    def __init__(self, number: int, page: str) -> None:
        self.number = number
        self.pid: int | None = 1
        self.life = 1
        self.phase = Phase.READY
        self.page = page


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
    folder: Path, totals: Totals, *workers: Ready
) -> AsyncIterator[aiohttp.ClientSession]:
    """A block in which the pages of the workers are served as those of a supervisor."""
    addresses = [UnixAddress(f"{folder}/{worker.number}") for worker in workers]
    pages = WorkerPages(
        cast("list[Worker]", workers), addresses, lambda: (True, "ready"), CollectorRegistry(), totals
    )
    async with AsyncExitStack() as stack:
        for worker, address in zip(workers, addresses, strict=True):

            async def answer(_: web.Request, worker: Ready = worker) -> web.Response:
                return web.Response(text=worker.page)

            app = web.Application()
            app.router.add_get("/metrics", answer)
            await stack.enter_async_context(listening(app, address.path))
        await stack.enter_async_context(listening(pages.app, f"{folder}/all"))
        pages.open()
        stack.push_async_callback(pages.close)
        connector = aiohttp.UnixConnector(f"{folder}/all")
        yield await stack.enter_async_context(aiohttp.ClientSession("http://all", connector=connector))


async def metrics(client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.get("/metrics") as answer:
        return answer.status, await answer.text()


async def test_a_worker_that_ends_while_the_next_is_read_breaks_no_page_and_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "# TYPE calls counter\ncalls_total {}\n# TYPE open gauge\nopen 1\n"
    totals, first, second = Totals(), Ready(0, page.format(2)), Ready(1, page.format(3))
    loop = asyncio.get_running_loop()

    def scrape_as_the_first_ends(text: Any) -> Scrape:
        if text == second.page:  # of all that is read the last, and read in a thread
            ended = asyncio.run_coroutine_threadsafe(end_first(), loop)
            ended.result()
        return scrape(text)

    async def end_first() -> None:
        first.pid = None
        first.phase = Phase.ENDED
        totals.ended("0")

    monkeypatch.setattr(worker_pages, "scrape", scrape_as_the_first_ends)
    async with asyncio.timeout(20), asked_for_all(tmp_path, totals, first, second) as client:
        status, text = await metrics(client)
        assert status == 200
        assert "calls_total 5.0" in text
        assert 'open{worker="1"} 1.0' in text
        assert 'open{worker="0"}' not in text
        assert "calls_total 5.0" in (await metrics(client))[1]
