"""Other rate limit services, which run already."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """A service on this machine that has loaded the limits of the benchmark."""

    name: str
    port: int
    pid: int | None = None
    redis_pid: int | None = None


def parse_peer(text: str) -> Peer:
    """Return the peer in `NAME=127.0.0.1:PORT[,pid=PID][,redis_pid=PID]`. Raises ValueError."""
    name, found, rest = text.partition("=")
    address, *more = rest.split(",")
    host, _, port = address.rpartition(":")
    if not (found and name.isidentifier() and host == "127.0.0.1" and port.isdigit()):
        raise ValueError(f"expected NAME=127.0.0.1:PORT[,pid=PID][,redis_pid=PID], not {text!r}")
    pids: dict[str, str] = {}
    for pair in more:
        key, _, pid = pair.partition("=")
        if key not in {"pid", "redis_pid"} or not pid.isdigit():
            raise ValueError(f"expected pid=PID or redis_pid=PID, not {pair!r}")
        pids[key] = pid
    return Peer(name, int(port), *[int(pids[key]) if key in pids else None for key in ("pid", "redis_pid")])
