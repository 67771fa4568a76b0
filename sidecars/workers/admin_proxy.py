"""The admin pages of all workers behind one address.

For a page that the supervisor does not have, a GET goes to every worker and the page lists their answers. A
request that changes something goes to one worker: with several, all state that it may change is in Redis.
`?worker=N` on any page asks one worker, and passes on its answer unchanged.
"""

import platform
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from yarl import URL

from sidecars.admin.guard import CONSOLE, Guard
from sidecars.admin.index import OWN_PAGES, index_page, links_in, others_in
from sidecars.admin.routes import MAX_BODY_BYTES
from sidecars.admin.totals import add_up
from sidecars.console.front import ConsoleFront
from sidecars.observability.exposition import metrics_page
from sidecars.observability.process_metrics import package_version
from sidecars.settings.process import AdminSettings
from sidecars.transport.api.address import Address
from sidecars.workers.client import PATIENT_SECONDS, WorkerClient, WorkerResponse
from sidecars.workers.metrics import MetricTotals
from sidecars.workers.process import Worker
from sidecars.workers.scrapes import WorkerScrapes

_Page = Callable[[web.Request], Awaitable[web.Response]]


class AdminProxy:
    """The application. `readiness` returns whether all serve, and a text; `registry` is the supervisor's.

    `settings` say who may ask, and what the workers are asked with. `plain_counters`: as for `metrics_page`.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        addresses: Sequence[Address],
        readiness: Callable[[], tuple[bool, str]],
        registry: CollectorRegistry,
        totals: MetricTotals,
        settings: AdminSettings | None = None,
        *,
        plain_counters: bool = False,
    ) -> None:
        self._plain_counters = plain_counters
        self._workers = tuple(workers)
        self._readiness = readiness
        settings = settings or AdminSettings()
        self._client = WorkerClient(workers, addresses, lambda: settings.client_headers)
        self._scrapes = WorkerScrapes(self._client, registry, totals)
        self._own: dict[str, _Page] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/config": self._config,
            "/totals": self._totals,
            "/version": self._version,
            "/decisions": self._decisions,
            "/": self._index,
        }
        self._links: tuple[str, ...] = ()
        guard = Guard(settings).middleware
        self.app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[guard])
        self.app.router.add_route("*", "/{path:.*}", self._page)

    def add_console(self, console: ConsoleFront) -> None:
        """Add the pages of `console`, which ask these."""
        console.add_to(self.app.router)
        self._links = (f"{CONSOLE}/",)

    def open(self) -> None:
        """Open the client of the workers."""
        self._client.open()

    async def close(self) -> None:
        """Close the client of the workers."""
        await self._scrapes.stop()
        await self._client.close()

    async def _page(self, request: web.Request) -> web.Response:
        named = request.query.get("worker")
        if named is not None:
            return await self._named(named, request)
        if request.method not in {"GET", "HEAD"}:
            return await self._of_one(request)
        own = self._own.get(request.path)
        return await own(request) if own is not None else await self._of_each(request)

    async def _named(self, name: str, request: web.Request) -> web.Response:
        if not (name.isascii() and name.isdigit() and int(name) < len(self._workers)):
            return _text(404, f"no such worker: they are 0 to {len(self._workers) - 1}")
        worker = self._workers[int(name)]
        url = request.rel_url.without_query_params("worker")
        body, headers = await request.read(), request.headers
        answer = await self._client.ask(
            worker, request.method, url, PATIENT_SECONDS, body=body, headers=headers
        )
        if answer is None:
            return _text(
                503, f"worker {name} does not answer ({worker.phase}; ended: {worker.exit_description})"
            )
        return answer.response()

    async def _of_one(self, request: web.Request) -> web.Response:
        answer = await self._client.ask_one(
            request.method, request.rel_url, body=await request.read(), headers=request.headers
        )
        return _text(503, "no worker answers") if answer is None else answer.response()

    async def _of_each(self, request: web.Request) -> web.Response:
        answers = await self._client.ask_all(request.rel_url)
        if not any(answer is not None and answer.status == 200 for answer in answers):
            return _first_of(answers)
        return _json(
            {
                "workers": [
                    {
                        "worker": worker.number,
                        "status": answer and answer.status,
                        "answer": answer and _read(answer),
                    }
                    for worker, answer in zip(self._workers, answers, strict=True)
                ]
            }
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        registry = await self._scrapes.gather()
        accept = request.headers.get("Accept", "")
        body, content_type = metrics_page(registry, accept, plain_counters=self._plain_counters)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _decisions(self, request: web.Request) -> web.Response:
        answers = await self._client.ask_all(request.rel_url)
        good = [answer for answer in answers if answer is not None and answer.status == 200]
        if not good or any(answer is not None and answer.status == 400 for answer in answers):
            return _first_of(answers)
        from authz.engine.recent_decisions import (
            DEFAULT_SHOWN,  # the supervisor of the other sidecars has no use for authz
        )

        limit = int(request.query.get("limit", DEFAULT_SHOWN))
        found = [decision for answer in good for decision in orjson.loads(answer.body)["decisions"]]
        # The texts sort like the times: all have one length and are in UTC.
        found.sort(key=lambda decision: str(decision.get("time", "")), reverse=True)
        silent = [
            worker.number for worker, answer in zip(self._workers, answers, strict=True) if answer is None
        ]
        response = _json({"decisions": found[:limit], "workers_without_answer": silent})
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _text(200, "ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, text = self._readiness()
        return _text(200 if ready else 503, text)

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"version": package_version(), "python": platform.python_version()})

    async def _index(self, _request: web.Request) -> web.Response:
        answers = await self._client.ask_all(URL("/"))
        pages = [one.body.decode() for one in answers if one is not None]
        links = [path for page in pages for path in links_in(page)]
        others = [other for page in pages for other in others_in(page)]
        return index_page((*OWN_PAGES, *links, *self._links), others, note="One worker alone: ?worker=0")

    async def _totals(self, request: web.Request) -> web.Response:
        answers = await self._client.ask_all(request.rel_url)
        pages = [None if one is None or one.status != 200 else orjson.loads(one.body) for one in answers]
        known = [page for page in pages if page is not None]
        return _json(
            {
                "version": package_version(),
                "phase": self._readiness()[1].partition("\n")[0],
                "sums": add_up([page["sums"] for page in known]) if known else {},
                "workers": [
                    {"worker": worker.number, "phase": worker.phase, "sidecars": page and page["sidecars"]}
                    for worker, page in zip(self._workers, pages, strict=True)
                ],
            }
        )

    async def _config(self, _request: web.Request) -> web.Response:
        pages = await self._client.ask_all(URL("/config"))
        workers = [
            {
                "worker": worker.number,
                "pid": worker.pid,
                "phase": worker.phase,
                "restarts": worker.restarts,
                "failures_in_a_row": worker.failures,
                "last_end": worker.exit_description,
                # Each worker has masked its secrets already. Null: it does not answer.
                "config": None if page is None else orjson.loads(page.body),
            }
            for worker, page in zip(self._workers, pages, strict=True)
        ]
        return _json(
            {
                "version": package_version(),
                "phase": self._readiness()[1].partition("\n")[0],
                "workers": workers,
            }
        )


def _first_of(answers: Sequence[WorkerResponse | None]) -> web.Response:
    """The first answer that is not a 200; 503 if no worker answers."""
    answer = next((one for one in answers if one is not None and one.status != 200), None)
    return _text(503, "no worker answers") if answer is None else answer.response()


def _read(answer: WorkerResponse) -> Any:
    if answer.headers.get("Content-Type", "").startswith("application/json"):
        return orjson.loads(answer.body)
    return answer.body.decode(errors="replace")


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _json(value: Any) -> web.Response:
    return web.Response(
        body=orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n", content_type="application/json"
    )
