"""A client that floods a server: `python -m bench.tools.flooder ORDER`, with the order as JSON.

It sends the whole flood in one write, on one connection or on several at once, and reads the replies. After
the disconnect or end of every connection, it closes them together and starts again. The order contains the
port, flood, path, message (hex) and seconds. The client prints an empty line when it starts, and the number
of connections as JSON when it ends.
"""

import socket
import sys
import time
from contextlib import ExitStack
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

import orjson

from bench.tools.floods import FloodRequest, flood
from bench.tools.log_floods import LOG_FLOODS, log_flood

READ_BYTES = 1024 * 1024
PATIENCE_SECONDS = 0.02
"""After everything is sent and the server was silent for this many seconds, no more replies are expected."""


def run(order: dict[str, Any]) -> dict[str, float]:
    """Send the flood until the time is over."""
    name, request = order["flood"], FloodRequest(order["path"], bytes.fromhex(order["message"]))
    at_once, data = log_flood(name, request) if name in LOG_FLOODS else (1, flood(name, request))
    print(flush=True)
    end = time.monotonic() + order["seconds"]
    connections = sent = 0
    while time.monotonic() < end:
        with ExitStack() as closing:
            connected = [
                closing.enter_context(socket.create_connection(("127.0.0.1", order["port"])))
                for _ in range(at_once)
            ]
            connections += at_once
            sent += _flood(connected, data, end)
    return {"connections": float(connections), "megabytes": sent / 1e6}


def _flood(connected: list[socket.socket], data: bytes, end: float) -> int:
    """Send and read until the server closes all connections or is silent; return the bytes sent."""
    rest = dict.fromkeys(connected, memoryview(data))
    with DefaultSelector() as selector:
        for connection in connected:
            connection.setblocking(False)
            selector.register(connection, EVENT_READ | EVENT_WRITE, data=connection)
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            ready = selector.select(min(left, PATIENCE_SECONDS))
            if not ready:
                break
            for key, events in ready:
                connection = key.data
                try:
                    if events & EVENT_READ and not connection.recv(READ_BYTES):
                        selector.unregister(connection)
                    elif events & EVENT_WRITE and rest[connection]:
                        unsent = rest[connection]
                        rest[connection] = unsent[connection.send(unsent[:READ_BYTES]) :]
                        if not rest[connection]:
                            selector.modify(connection, EVENT_READ, data=connection)
                except ConnectionError:
                    selector.unregister(connection)
    return sum(len(data) - len(unsent) for unsent in rest.values())


if __name__ == "__main__":
    print(orjson.dumps(run(orjson.loads(sys.argv[1]))).decode())
