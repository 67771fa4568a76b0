"""TCP ports for processes that cannot pick one themselves."""

import os
import socket
from collections.abc import Iterator
from typing import Final

_PORTS: Final = range(10_000, 20_000)
"""Below those that systems give to clients, which could take a port before its server does; also 10,000 below
others, because a node of a Redis Cluster listens there, too."""

_WORKERS: Final = 10
"""Workers of pytest-xdist whose ports never meet."""


def _candidates() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    size = len(_PORTS) // _WORKERS
    offset = os.getpid()
    while True:
        yield _PORTS[worker * size + offset % size]
        offset += 1


_next = _candidates()


def free_port() -> int:
    """Return a port of the loopback on which nothing listens, another one in each call."""
    return next(port for port in _next if _is_free(port))


def adjacent_ports() -> tuple[int, int]:
    """Return two free ports, one after the other."""
    while True:
        port, other = free_port(), free_port()
        if other == port + 1:
            return port, other


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
