"""Has policies evaluated in processes of their own, with caps on size, memory and time."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from socket import AF_UNIX, SHUT_WR, SOCK_SEQPACKET, send_fds, socket, socketpair
from typing import Any, Final

import orjson

from sidecars.console.fork_server import EXIT_CODE, FORKED, MAX_CPU_SECONDS, MAX_SECONDS

MAX_TEXT_BYTES: Final = 256 * 1024
"""The most bytes of a pasted policy, request or suite."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
START_SECONDS: Final = 300.0
"""It starts in one second of CPU time, and is given a tenth of a busy core at most."""
MAX_PROCESSES: Final = 2
"""Evaluations at the same time; more wait."""

COMMAND: Final = (sys.executable, "-P", "-m", "sidecars.console.evaluator")

_NO_ANSWER: Final = "its process ended without an answer; it may need more memory than it may take"


class _NotForkedError(Exception):
    """The server has ended before it forked a child."""


class Sandbox:
    """Evaluates in children of a fork server, at most MAX_PROCESSES at the same time.

    `command` starts the server, at the first evaluation and whenever it has ended.
    """

    def __init__(self, command: Sequence[str] = COMMAND, seconds: float = MAX_SECONDS) -> None:
        self._command = tuple(command)
        self._seconds = seconds
        self._running = asyncio.Semaphore(MAX_PROCESSES)
        self._starting = asyncio.Lock()
        self._server: _Server | None = None

    async def evaluate(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of `sidecars.console.evaluate`, or `{"failure": TEXT}`."""
        for name in ("policy", "question", "suite"):
            if len((asked.get(name) or "").encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
                return {"failure": f"the {name} has more than {MAX_TEXT_BYTES >> 10} KiB"}
        async with self._running:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._evaluated(orjson.dumps(asked))
            except TimeoutError:
                return {"failure": f"it takes longer than {self._seconds:g} seconds"}

    async def close(self) -> None:
        """End the server, and with it all evaluations."""
        server, self._server = self._server, None
        if server is not None:
            await server.end()

    async def _evaluated(self, asked: bytes) -> dict[str, Any]:
        try:
            answer, code = await self._asked(asked)
        except _NotForkedError:  # it was about to end: another one does not know what ended it
            try:
                answer, code = await self._asked(asked)
            except _NotForkedError:
                return {"failure": "the process that evaluates does not start; the log may say why"}
        if len(answer) > MAX_ANSWER_BYTES:
            return {"failure": f"the explanation has more than {MAX_ANSWER_BYTES >> 20} MiB"}
        if code is None:
            return {"failure": "the process that evaluates has ended; try again"}
        if code < 0:
            return {"failure": f"it takes more memory than it may, or {MAX_CPU_SECONDS} seconds of CPU time"}
        try:
            found = orjson.loads(answer)
        except orjson.JSONDecodeError:
            return {"failure": _NO_ANSWER}
        return found if isinstance(found, dict) else {"failure": _NO_ANSWER}

    async def _asked(self, asked: bytes) -> tuple[bytes, int | None]:
        """Return the answer of a child and its exit code, None if the server ended.

        Raises _NotForkedError.
        """
        loop = asyncio.get_running_loop()
        server = await self._started()
        with ExitStack() as stack:  # as it closes `end`, the server kills the child
            connection, end = map(stack.enter_context, server.fork())
            try:
                if await _received(end) != FORKED:
                    raise _NotForkedError
            except BaseException as error:  # the time may be up
                if isinstance(error, _NotForkedError) or loop.time() > server.ready_by:
                    await self._ended(server)
                raise
            sending = loop.create_task(_send(connection, asked))
            try:
                answer = b""
                while len(answer) <= MAX_ANSWER_BYTES and (more := await _received(connection)):
                    answer += more
            finally:
                sending.cancel()
                await asyncio.wait([sending])
            if len(answer) > MAX_ANSWER_BYTES:
                return answer, None
            told = await _received(end)
        return answer, EXIT_CODE.unpack(told)[0] if len(told) == EXIT_CODE.size else None

    async def _started(self) -> "_Server":
        async with self._starting:
            if self._server is None or self._server.process.returncode is not None:
                await self.close()
                self._server = await _start(self._command)
            return self._server

    async def _ended(self, server: "_Server") -> None:
        async with self._starting:
            if self._server is server:
                self._server = None
        await server.end()


@dataclass(frozen=True, slots=True)
class _Server:
    """A running fork server, and the socket that it takes messages from."""

    process: asyncio.subprocess.Process
    control: socket
    ready_by: float
    """The time of the loop at which its imports are done: if it then forks no child, it hangs."""

    def fork(self) -> tuple[socket, socket]:
        """Ask for a child; return the socket that connects with it, and that of its end."""
        connection, of_child = socketpair()
        end, of_server = socketpair()
        with of_child, of_server, suppress(OSError):  # where it has ended, so does `end`
            send_fds(self.control, [b"f"], [of_child.fileno(), of_server.fileno()])
        for one in (connection, end):
            one.setblocking(False)
        return connection, end

    async def end(self) -> None:
        self.control.close()
        with suppress(ProcessLookupError):
            self.process.kill()  # and its children with it
        await self.process.wait()


async def _start(command: Sequence[str]) -> _Server:
    control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    control.setblocking(False)
    with theirs:
        # Nothing of the environment: it may hold secrets.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, env={"LANG": "C.UTF-8"},
            start_new_session=True,
        )  # fmt: skip
    return _Server(process, control, asyncio.get_running_loop().time() + START_SECONDS)


async def _send(connection: socket, asked: bytes) -> None:
    with suppress(OSError):  # it ended, or does not read
        await asyncio.get_running_loop().sock_sendall(connection, asked)
        connection.shutdown(SHUT_WR)


async def _received(connection: socket) -> bytes:
    """Return the next bytes; empty at their end."""
    try:
        return await asyncio.get_running_loop().sock_recv(connection, 65536)
    except OSError:
        return b""
