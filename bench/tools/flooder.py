"""A client that floods a server: `python -m bench.tools.flooder ORDER`, with the order as JSON.

It sends the whole flood in one write, reads what comes back, and does so again on a new connection once it is
cut off or through. The order names the port, flood, path, message (hex) and seconds. An empty line says that
it begins; how many connections it took comes out as JSON.
"""

import socket
import sys
import time
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

import orjson

from bench.tools.floods import Request, flood

READ_BYTES = 1024 * 1024
PATIENCE_SECONDS = 0.02
"""Seconds of silence after everything is sent: the server has answered all that it will."""


def run(order: dict[str, Any]) -> dict[str, float]:
    """Flood until the time is over."""
    data = flood(order["flood"], Request(order["path"], bytes.fromhex(order["message"])))
    print(flush=True)
    end = time.monotonic() + order["seconds"]
    connections = sent = 0
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", order["port"])) as connection:
            connections += 1
            with suppress(ConnectionError):
                sent += _flood(connection, data, end)
    return {"connections": float(connections), "megabytes": sent / 1e6}


def _flood(connection: socket.socket, data: bytes, end: float) -> int:
    """Send and read until the server hangs up or falls silent; returns how much was sent."""
    connection.setblocking(False)
    rest = memoryview(data)
    with DefaultSelector() as selector:
        selector.register(connection, EVENT_READ | EVENT_WRITE)
        while (left := end - time.monotonic()) > 0:
            ready = selector.select(min(left, PATIENCE_SECONDS))
            if not ready:
                break
            events = ready[0][1]
            if events & EVENT_READ and not connection.recv(READ_BYTES):
                break
            if events & EVENT_WRITE and rest:
                rest = rest[connection.send(rest[:READ_BYTES]) :]
                if not rest:
                    selector.modify(connection, EVENT_READ)
    return len(data) - len(rest)


if __name__ == "__main__":
    print(orjson.dumps(run(orjson.loads(sys.argv[1]))).decode())
