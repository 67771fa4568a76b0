"""A small sidecar for tests of the runtime; `python -m tests.support.probe FILE` runs it.

It replaces authz. Its policy file contains `answer: TEXT`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from common.configfile import ConfigError, Problem, read, validate
from sidecars.cli.serve import run
from sidecars.services.sidecar import Dependencies
from sidecars.transport.api.service import Call, ClientStreaming, Method, Service, Unary

SERVICE = "test.Probe"


class ProbeFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str
    revision: str = "1"


class ProbeSidecar:
    """Answers with the text of its file; requests can make it slow, fail or hang."""

    name = "authz"

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._content = _load(self._files)
        self._finish = asyncio.Event()
        self.open_streams = 0
        self.lived: list[str] = []

    @property
    def services(self) -> Sequence[Service]:
        methods: dict[str, Method] = {
            "Answer": Unary(self._answer),
            "Slow": Unary(self._slow),
            "Collect": ClientStreaming(self._collect),
        }
        return (Service(SERVICE, methods),)

    @property
    def watched_files(self) -> Sequence[Path]:
        return self._files

    async def start(self) -> None:
        self.lived.append("start")
        if text := os.environ.get("PROBE_FILE_BECOMES"):
            self._files[0].write_text(text)

    def prepare(self) -> Callable[[], None]:
        content = _load(self._files)

        def swap() -> None:
            self._content = content

        return swap

    def describe(self) -> dict[str, Any]:
        return {"revision": self._content.revision, "open_streams": self.open_streams, "token": "hunter2"}

    async def finish_streams(self) -> None:
        self.lived.append("finish_streams")
        self._finish.set()

    async def stop(self) -> None:
        self.lived.append("stop")
        sys.stdout.write("flushed\n")
        if os.environ.get("PROBE_HANGS"):
            await asyncio.to_thread(sys.stdin.read)  # cancellation does not end this

    def _answer(self, request: bytes, call: Call) -> bytes:
        return self._content.answer.encode()

    async def _slow(self, request: bytes, call: Call) -> bytes:
        """Answer once the file named in the request has been removed."""
        self.open_streams += 1
        path = Path(request.decode())
        while path.exists():  # noqa: ASYNC110, ASYNC240  # another process takes it away
            await asyncio.sleep(0.01)
        return b"slow but sure"

    async def _collect(self, requests: AsyncIterator[bytes], call: Call) -> bytes:
        self.open_streams += 1
        reading = asyncio.ensure_future(anext(requests, None))
        finishing = asyncio.ensure_future(self._finish.wait())
        while not finishing.done():
            await asyncio.wait({reading, finishing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not finishing.done():
                reading = asyncio.ensure_future(anext(requests, None))
        reading.cancel()
        return b"in order"


def _load(files: Sequence[Path]) -> ProbeFile:
    problems: list[Problem] = []
    content = None
    for file in files:
        try:
            content = validate(read(file), ProbeFile)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems or content is None:
        raise ConfigError(problems)
    return content


def build(settings: Any, dependencies: Dependencies) -> ProbeSidecar:
    return ProbeSidecar(settings.policy)


if __name__ == "__main__":
    run(Path(sys.argv[1]), "all", os.environ, {"authz": build})
