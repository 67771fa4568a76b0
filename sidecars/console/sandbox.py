"""Runs the evaluation of a policy in a process of its own, with caps on size, memory and time."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from sidecars.console.evaluate import MAX_CPU_SECONDS

MAX_TEXT_BYTES: Final = 256 * 1024
"""The most bytes of a pasted policy, request or suite."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_SECONDS: Final = 60.0
"""Much longer than the CPU time it may use: where all cores are busy it gets a tenth of one at most."""
MAX_PROCESSES: Final = 2
"""Evaluations at the same time; more wait."""

COMMAND: Final = (sys.executable, "-P", "-m", "sidecars.console.evaluate")


class Sandbox:
    """Runs `command` for each evaluation, at most MAX_PROCESSES at the same time."""

    def __init__(self, command: Sequence[str] = COMMAND, seconds: float = MAX_SECONDS) -> None:
        self._command = tuple(command)
        self._seconds = seconds
        self._running = asyncio.Semaphore(MAX_PROCESSES)

    async def evaluate(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of `sidecars.console.evaluate`, or `{"failure": TEXT}`."""
        for name in ("policy", "question", "suite"):
            if len((asked.get(name) or "").encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
                return {"failure": f"the {name} has more than {MAX_TEXT_BYTES >> 10} KiB"}
        async with self._running:
            return await self._run(orjson.dumps(asked))

    async def _run(self, asked: bytes) -> dict[str, Any]:
        # Nothing of the environment: it may hold secrets.
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._seconds):
                answer = await _exchange(process, asked)
                code = await process.wait()
        except TimeoutError:
            return {"failure": f"it takes longer than {self._seconds:g} seconds"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
        if len(answer) > MAX_ANSWER_BYTES:
            return {"failure": f"the explanation has more than {MAX_ANSWER_BYTES >> 20} MiB"}
        if code < 0:
            return {"failure": f"it takes more memory than it may, or {MAX_CPU_SECONDS} seconds of CPU time"}
        try:
            found: dict[str, Any] = orjson.loads(answer)
        except orjson.JSONDecodeError:
            return {
                "failure": "its process ended without an answer; it may need more memory than it may take"
            }
        return found


async def _exchange(process: asyncio.subprocess.Process, asked: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101  # both are pipes
    with suppress(ConnectionError):
        process.stdin.write(asked)
        await process.stdin.drain()
    process.stdin.close()
    answer = b""
    while len(answer) <= MAX_ANSWER_BYTES and (more := await process.stdout.read(65536)):
        answer += more
    if len(answer) > MAX_ANSWER_BYTES:
        process.kill()
    return answer
