"""An outside client of Envoy that opens requests and resets them: `python -m bench.tools.resetter ORDER`.

The order is JSON: port, rate (requests a second) and seconds. It resets half of the requests in the same
write, half in the next one, so that some checks have started by then. Envoy closes a connection if most of
its requests end like this (premature resets), and the client then opens a new one. It prints the result as
JSON.
"""

import socket
import sys
import time
from contextlib import suppress
from typing import Any

import orjson
from hpack import Encoder

from bench.tools.generator import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OPENING,
    RST_STREAM,
    SETTINGS_ACK,
    frame,
)

TICK_SECONDS = 0.005
REQUESTS_A_CONNECTION = 500
_CANCEL = (8).to_bytes(4, "big")


def run(order: dict[str, Any]) -> dict[str, float]:
    """Open and reset requests at the rate in the order until its time is over."""
    encoder = Encoder()
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/orders"), (":authority", "edge.example")]
    block = encoder.encode([(name, value, True) for name, value in fields])
    each_tick = max(1, round(order["rate"] * TICK_SECONDS))
    end = time.monotonic() + order["seconds"]
    sent = connections = 0
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", order["port"])) as connection, suppress(OSError):
            connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(OPENING + SETTINGS_ACK)
            connection.setblocking(False)
            stream = 1
            while stream < 2 * REQUESTS_A_CONNECTION and (now := time.monotonic()) < end:
                numbers = range(stream, stream + 2 * each_tick, 2)
                stream = numbers.stop
                asked = [frame(HEADERS, END_HEADERS | END_STREAM, number, block) for number in numbers]
                resets = [frame(RST_STREAM, 0, number, _CANCEL) for number in numbers]
                half = each_tick // 2
                at_once = b"".join(map(b"".join, zip(asked[:half], resets[:half], strict=True)))
                connection.send(at_once + b"".join(asked[half:]))
                connection.send(b"".join(resets[half:]))
                sent += each_tick
                with suppress(BlockingIOError):
                    if not connection.recv(1_000_000):
                        break
                time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
    return {"requests": float(sent), "connections": float(connections)}


if __name__ == "__main__":
    print(orjson.dumps(run(orjson.loads(sys.argv[1]))).decode())
