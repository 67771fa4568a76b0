"""JSON lines to standard output, where container platforms collect them."""

import asyncio
from collections.abc import Sequence

from accesslog.sinks.descriptor import WriterThread, check_writable, sink_error, write_all
from accesslog.sinks.sink import CLOSE_SECONDS, SinkError


class StdoutSink:
    """Writes to `descriptor`, which stays open: it belongs to the process.

    A batch that failed halfway is written again whole, after a newline: lines may then appear twice, but none
    is lost and none torn into another.
    """

    __slots__ = ("_descriptor", "_thread", "_torn", "name")

    def __init__(self, name: str = "stdout", descriptor: int = 1) -> None:
        self.name = name
        self._descriptor = descriptor
        self._thread = WriterThread(f"accesslog {name}")
        self._torn = False

    async def open(self) -> None:
        """Nothing: it is open already."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Write all of `lines`. Raises SinkError; for a pipe whose reader is gone, one not to be retried."""
        await self._thread.call(self._write, lines)

    async def check(self) -> None:
        """Look whether a pipe has a reader and a file room. Raises SinkError."""
        await self._thread.call(self._check)

    async def reopen(self) -> None:
        """Do nothing: the file belongs to the process that started this one."""

    async def close(self) -> None:
        """Let what is being written finish, for a second at most."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._thread.call(lambda: None)
        except TimeoutError:
            pass
        finally:
            self._thread.end()

    def _check(self) -> None:
        try:
            check_writable(self._descriptor)
        except OSError as error:
            raise _error(error) from error

    def _write(self, lines: Sequence[bytes]) -> None:
        data = b"".join((b"\n", *lines)) if self._torn else b"".join(lines)
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self._torn = True
            raise _error(error) from error
        self._torn = False


def _error(error: OSError) -> SinkError:
    return sink_error(error, "standard output")
