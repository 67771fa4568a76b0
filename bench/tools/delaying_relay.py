"""A TCP relay that can hold back every byte for a while: a Redis that answers slowly."""

import asyncio
import threading
from typing import Self


class DelayingRelay:
    """Relays a free port to another one, in a thread of its own. `delay_seconds` may change at any time."""

    def __init__(self, target_port: int) -> None:
        self.delay_seconds = 0.0
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other, target = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._pass_on(reader, target, delayed=False), self._pass_on(other, writer, delayed=True)
        )

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, delayed: bool
    ) -> None:
        try:
            while data := await source.read(65_536):
                if delayed and self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                target.write(data)
        except OSError:
            pass
        finally:
            target.close()
