"""The admin pages of all workers behind one address.

Where the supervisor has no page of its own, a GET is put to every worker and their answers are made one, and
anything else is put to every worker and answered as the one that liked it least. `?worker=N` on any page asks
one worker, and its answer is passed on as it is.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from yarl import URL

from sidecars.runtime.admin_routes import MAX_BODY_BYTES
from sidecars.runtime.metrics import package_version
from sidecars.runtime.worker_metrics import Totals, scrape
from sidecars.runtime.worker_process import Phase, Worker
from sidecars.transport.address import Address, TcpAddress

ANSWER_SECONDS = 5.0
"""Below Prometheus's scrape timeout of 10 s: a worker that hangs must not take the page with it."""

SUPERVISOR = "supervisor"

_Page = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Said:
    """A worker's answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def response(self, status: int | None = None) -> web.Response:
        """The same for whoever asked us."""
        return web.Response(status=status or self.status, body=self.body, headers=self.headers)


class WorkerPages:
    """The application. `readiness` says whether all serve, and in words; `registry` is the supervisor's."""

    def __init__(
        self,
        workers: Sequence[Worker],
        addresses: Sequence[Address],
        readiness: Callable[[], tuple[bool, str]],
        registry: CollectorRegistry,
        totals: Totals,
    ) -> None:
        self._workers = tuple(workers)
        self._addresses = tuple(addresses)
        self._readiness = readiness
        self._registry = registry
        self._totals = totals
        self._scraping = asyncio.Lock()
        self._clients: list[aiohttp.ClientSession] = []
        self._own: dict[str, _Page] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/config": self._config,
            "/version": self._version,
            "/": self._index,
        }
        self.app = web.Application(client_max_size=MAX_BODY_BYTES)
        self.app.router.add_route("*", "/{path:.*}", self._page)

    def open(self) -> None:
        """Make ready to ask the workers."""
        self._clients = [_client(address) for address in self._addresses]

    async def close(self) -> None:
        """Ask no more."""
        for client in self._clients:
            await client.close()

    async def _page(self, request: web.Request) -> web.Response:
        named = request.query.get("worker")
        if named is not None:
            return await self._named(named, request)
        reads = request.method in {"GET", "HEAD"}
        own = self._own.get(request.path) if reads else None
        if own is not None:
            return await own(request)
        body = await request.read()
        said = [one for one in await self._ask_all(request, body) if one is not None]
        if reads:
            return merged(said)
        if len(said) < len(self._workers):
            missing = len(self._workers) - len(said)
            return _text(
                503, f"{missing} of {len(self._workers)} workers did not answer: not done everywhere"
            )
        return max(said, key=lambda one: one.status).response()

    async def _named(self, name: str, request: web.Request) -> web.Response:
        if not (name.isascii() and name.isdigit() and int(name) < len(self._workers)):
            return _text(404, f"no such worker: they are 0 to {len(self._workers) - 1}")
        worker = self._workers[int(name)]
        url = request.rel_url.without_query_params("worker")
        said = await self._ask(worker, request.method, url, await request.read(), request.headers)
        if said is None:
            return _text(503, f"worker {name} does not answer ({worker.phase}; ended: {worker.how_it_ended})")
        return said.response()

    async def _ask_all(self, request: web.Request, body: bytes) -> list[Said | None]:
        asking = (
            self._ask(worker, request.method, request.rel_url, body, request.headers)
            for worker in self._workers
        )
        return await asyncio.gather(*asking)

    async def _ask(
        self,
        worker: Worker,
        method: str,
        url: URL,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Said | None:
        """What `worker` answers; None where it does not."""
        if worker.phase in {Phase.STARTING, Phase.ENDED}:
            return None
        content_type = (headers or {}).get("Content-Type")
        send = {} if content_type is None else {"Content-Type": content_type}
        client = self._clients[worker.number]
        try:
            async with client.request(
                method, url, data=body or None, headers=send, allow_redirects=False
            ) as answer:
                kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
                return Said(answer.status, await answer.read(), kept)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _metrics(self, request: web.Request) -> web.Response:
        async with self._scraping:  # so that an older answer never takes the place of a newer one
            asked = [(worker, worker.life) for worker in self._workers]
            pages = await asyncio.gather(*(self._ask(worker, "GET", URL("/metrics")) for worker, _ in asked))
            fresh = [SUPERVISOR]
            self._totals.saw(SUPERVISOR, scrape(self._registry.collect()))
            for (worker, life), page in zip(asked, pages, strict=True):
                if page is None or page.status != 200:
                    continue
                # In a thread: the parser is slow, and we must hear when a worker ends.
                found = await asyncio.to_thread(scrape, page.body.decode())
                if worker.life == life and worker.pid is not None:
                    self._totals.saw(str(worker.number), found)
                    fresh.append(str(worker.number))
            registry = CollectorRegistry()
            registry.register(_Collected(list(self._totals.families(fresh))))
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _text(200, "ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, text = self._readiness()
        return _text(200 if ready else 503, text)

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"version": package_version(), "python": platform.python_version()})

    async def _index(self, _request: web.Request) -> web.Response:
        return _text(200, "\n".join([*list(self._own)[:-1], "", "Of one worker: ?worker=0"]))

    async def _config(self, _request: web.Request) -> web.Response:
        pages = await asyncio.gather(*(self._ask(worker, "GET", URL("/config")) for worker in self._workers))
        workers = [
            {
                "worker": worker.number,
                "pid": worker.pid,
                "phase": worker.phase,
                "restarts": worker.restarts,
                "failures_in_a_row": worker.failures,
                "last_end": worker.how_it_ended,
                # Each worker has masked its secrets already.
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


_PASSED_ON = ("Content-Type", "Cache-Control")


def merged(said: Sequence[Said]) -> web.Response:
    """One answer to a GET made of the good ones, or the first bad one where there is none.

    Lists are joined. Of objects, what is the same in all stays, lists are joined, and what differs becomes an
    object by worker, in the order asked. Anything but JSON follows one after the other.
    """
    good = [one for one in said if one.status == 200]
    if not said:
        return _text(503, "no worker answers")
    if len(good) < 2:
        return (good or list(said))[0].response()
    if not all(one.headers.get("Content-Type", "").startswith("application/json") for one in good):
        return Said(200, b"".join(one.body for one in good), good[0].headers).response()
    body = orjson.dumps(_join([orjson.loads(one.body) for one in good]))
    return Said(200, body, good[0].headers).response()


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _join([value[key] for value in values if key in value]) for key in keys}
    if all(value == first for value in values):
        return first
    return {str(number): value for number, value in enumerate(values)}


@dataclass(frozen=True, slots=True, eq=False)
class _Collected:
    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _client(address: Address) -> aiohttp.ClientSession:
    # A connection an answer: a worker that ended leaves none behind that looks alive.
    connector: aiohttp.BaseConnector
    if isinstance(address, TcpAddress):
        base, connector = f"http://{address}", aiohttp.TCPConnector(force_close=True)
    else:
        path = "\0" + address.path[1:] if address.abstract else address.path
        base, connector = "http://worker", aiohttp.UnixConnector(path, force_close=True)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    return aiohttp.ClientSession(base, connector=connector, timeout=timeout, auto_decompress=False)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _json(value: Any) -> web.Response:
    return web.Response(
        body=orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n", content_type="application/json"
    )
