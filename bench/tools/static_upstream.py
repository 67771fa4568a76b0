"""An HTTP/1.1 server that answers at once: `python -m bench.tools.static_upstream` prints its port."""

import asyncio
import signal
from collections.abc import Callable
from typing import cast

import uvloop

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n"
_END = b"\r\n\r\n"


class Upstream(asyncio.Protocol):
    """Answers each head of a request. A body with a length is skipped."""

    def __init__(self) -> None:
        self._data = b""
        self._write: Callable[[bytes], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins."""
        self._write = cast("asyncio.WriteTransport", transport).write

    def data_received(self, data: bytes) -> None:
        """Answer all requests that are complete."""
        self._data = self._data + data if self._data else data
        while (head_end := self._data.find(_END)) >= 0:
            end = head_end + len(_END) + _body_bytes(self._data[:head_end])
            if len(self._data) < end:
                return
            self._data = self._data[end:]
            self._write(RESPONSE)


def _body_bytes(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    return int(head[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else 0


async def serve() -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
