"""A receiver as one writes it first, on grpc.aio: `python -m bench.tools.plain_log_server FILE`.

It writes each entry as a line of json_format.MessageToJson, without redaction or bounds.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TextIO

import grpc
import uvloop
from google.protobuf.json_format import MessageToJson

from protos.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from sidecars.services.accesslog import SERVICE


class Receiver:
    """Writes lines to `file`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    async def stream(self, messages: AsyncIterator[StreamAccessLogsMessage], _context: Any) -> Any:
        """StreamAccessLogs."""
        async for message in messages:
            for entry in message.http_logs.log_entry:
                self._file.write(MessageToJson(entry, indent=None) + "\n")
        return StreamAccessLogsResponse()


async def serve(path: Path) -> None:
    """Serve until SIGTERM; print the port once it accepts connections."""
    with path.open("w") as file:
        handler = grpc.stream_unary_rpc_method_handler(
            Receiver(file).stream,
            request_deserializer=StreamAccessLogsMessage.FromString,
            response_serializer=StreamAccessLogsResponse.SerializeToString,
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
