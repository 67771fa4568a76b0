"""The answers of the admin port, on the socket that its process opens for the console."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import orjson

from common.http_body import read_at_most

ANSWER_SECONDS: Final = 6.0
"""With workers, a page of one of them may take 5 seconds."""

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024


class SourceError(Exception):
    """The admin port gave no answer that a page can use. The text says why."""

    def __init__(self, text: str, status: int = 503) -> None:
        super().__init__(text)
        self.status = status


class Source(Protocol):
    """Answers of the admin port."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at `path`. Raises SourceError."""

    async def post(self, path: str, question: Any, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON that answers a question, which changes nothing. Raises SourceError."""


class AdminSource:
    """The admin port on a unix socket."""

    def __init__(self, path: Path) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        connector = aiohttp.UnixConnector(str(path))
        self._session = aiohttp.ClientSession("http://admin", connector=connector, timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at `path`. Raises SourceError."""
        return await self._ask("GET", path, query)

    async def post(self, path: str, question: Any, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON that answers a question, which changes nothing. Raises SourceError."""
        return await self._ask("POST", path, query, json=question)

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None, **options: Any) -> Any:
        try:
            async with self._session.request(method, path, params=query or {}, **options) as answer:
                body = await read_at_most(answer.content, MAX_ANSWER_BYTES)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SourceError(f"{path} gives no answer: {str(error) or 'it takes too long'}") from None
        if status != 200:
            raise SourceError(body.decode(errors="replace").strip() or f"status {status}", status)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise SourceError(f"{path} gives no JSON") from None


def of_each_worker(answer: Any) -> list[tuple[str, Any]]:
    """Return the answers in `answer` with the number of the worker that gave each; empty without workers.

    A worker that gave no answer has None.
    """
    if isinstance(answer, dict) and isinstance(answer.get("workers"), list):
        return [
            (str(one["worker"]), one.get("answer", one.get("config", one.get("sidecars"))))
            for one in answer["workers"]
        ]
    return [("", answer)]
