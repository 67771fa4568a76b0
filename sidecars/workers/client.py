"""The supervisor's HTTP client for the admin servers of its workers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from sidecars.transport.api.address import Address, TcpAddress
from sidecars.workers.process import Worker, WorkerPhase

ANSWER_SECONDS: Final = 0.75
"""The wait for a page of all workers: a worker that hangs must not delay the page, least of all
for the person who looks for that worker."""

PATIENT_SECONDS: Final = 5.0
"""The wait for a page of one worker, and for metrics that may come late: below Prometheus's 10 s."""

_PASSED_ON: Final = ("Content-Type", "Cache-Control")


@dataclass(frozen=True, slots=True)
class WorkerResponse:
    """A worker's answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def response(self) -> web.Response:
        """The worker's answer as the supervisor's response."""
        return web.Response(status=self.status, body=self.body, headers=self.headers)


class WorkerClient:
    """Asks the workers, each at its admin address. Call `open` on the loop first, and `close` at the end.

    `headers` returns those of each request. If it raises OSError or ValueError, the worker is not asked.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        addresses: Sequence[Address],
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._headers = headers
        self.workers = tuple(workers)
        self._addresses = tuple(addresses)
        self._sessions: list[aiohttp.ClientSession] = []
        self._silent: set[int] = set()

    def open(self) -> None:
        """Open the HTTP session."""
        self._sessions = [_session(address) for address in self._addresses]

    async def close(self) -> None:
        """Close the HTTP session."""
        for session in self._sessions:
            await session.close()

    async def ask(
        self,
        worker: Worker,
        method: str,
        url: URL,
        seconds: float,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> WorkerResponse | None:
        """The answer of `worker`; None if it does not come within `seconds`."""
        if worker.phase in {WorkerPhase.STARTING, WorkerPhase.ENDED}:
            return None
        content_type = (headers or {}).get("Content-Type")
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            send = {**self._headers(), **({} if content_type is None else {"Content-Type": content_type})}
            async with self._sessions[worker.number].request(
                method,
                url,
                data=body or None,
                headers={**send, **_accept(headers or {})},
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
                passed = WorkerResponse(answer.status, await answer.read(), kept)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._silent.add(worker.number)
            return None
        self._silent.discard(worker.number)
        return passed

    async def ask_all(self, url: URL, seconds: float = ANSWER_SECONDS) -> list[WorkerResponse | None]:
        """Each worker's answer to a GET; None for those that do not answer within `seconds`."""
        return await asyncio.gather(*(self.ask(worker, "GET", url, seconds) for worker in self.workers))

    async def ask_one(
        self, method: str, url: URL, *, body: bytes, headers: Mapping[str, str]
    ) -> WorkerResponse | None:
        """What the first worker answers that does: one that serves, and answered when it was last asked.

        If one gives no answer, the next is asked: these requests may be done twice without harm.
        """
        for worker in sorted(self.workers, key=lambda one: (not one.serves, one.number in self._silent)):
            said = await self.ask(worker, method, url, PATIENT_SECONDS, body=body, headers=headers)
            if said is not None:
                return said
        return None


def _accept(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Accept": headers["Accept"]} if "Accept" in headers else {}


def _session(address: Address) -> aiohttp.ClientSession:
    # One connection an answer: an ended worker then leaves no connection that looks alive.
    connector: aiohttp.BaseConnector
    if isinstance(address, TcpAddress):
        base, connector = f"http://{address}", aiohttp.TCPConnector(force_close=True)
    else:
        path = "\0" + address.path[1:] if address.abstract else address.path
        base, connector = "http://worker", aiohttp.UnixConnector(path, force_close=True)
    return aiohttp.ClientSession(base, connector=connector, auto_decompress=False)
