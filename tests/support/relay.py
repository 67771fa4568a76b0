"""A relay between two sockets that a test may cut, so that the server seems dead."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

Address = Path | int
"""A unix socket, or a port of 127.0.0.1."""


class Relay:
    """Passes bytes between each client and `target`, during the block.

    It listens on `listen`, or on a free port. While `swallows` is set, it reads what clients send and passes
    nothing on.
    """

    def __init__(self, target: Address, listen: Address = 0) -> None:
        self.target = target
        self.swallows = False
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert isinstance(self._listen, int)
        return self._listen

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def resume(self) -> None:
        """Accept connections (again), on the same address."""
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, self._listen)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen)
            self._listen = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.disconnect()
        await asyncio.sleep(0)

    def disconnect(self) -> None:
        """Close every connection."""
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(OSError):
                if self.swallows:
                    while await reader.read(65_536):
                        pass
                else:
                    await self._pass(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.target, Path):
            behind, to_behind = await asyncio.open_unix_connection(self.target)
        else:
            behind, to_behind = await asyncio.open_connection("127.0.0.1", self.target)
        self._open.add(to_behind)
        try:
            await asyncio.gather(_copy(reader, to_behind), _copy(behind, writer))
        finally:
            self._open.discard(to_behind)
            to_behind.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
