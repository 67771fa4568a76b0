"""What to send, how fast and how long; and the result."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from bench.openloop.latency import Latency

MOST_CONNECTIONS = 1000
"""`select`, which waits with a resolution of microseconds, takes file descriptors below 1024."""

BUSY_SHARE = 0.9
LATE_SHARE = 0.25
LATE_US = 100
"""The clock and the scheduler of an idle machine alone cause less."""


@dataclass(frozen=True, slots=True)
class Order:
    """One load. Without a rate each connection sends the next request at once (a closed loop)."""

    protocol: Literal["http1", "grpc"]
    port: int
    requests: Path
    """A file from `write_requests`: whole HTTP/1.1 requests, or gRPC messages."""
    host: str = "127.0.0.1"
    path: str = ""
    """The gRPC method."""
    connections: int = 8
    streams: int = 1
    per_second: float | None = None
    seconds: float = 2.0
    warm_up_seconds: float = 0.5
    warm_up_per_second: float | None = None
    """The rate of the warm-up, if it is another: to measure what comes after a surge."""
    timeout: str = "250m"
    """The grpc-timeout of each call."""
    patience_seconds: float = 2.0
    """How long the calls in flight at the end may still take."""
    tracing: bool = False
    """Whether each gRPC call has its own traceparent."""

    def __post_init__(self) -> None:
        if not 1 <= self.connections <= MOST_CONNECTIONS:
            raise ValueError(f"connections: {self.connections} is not within 1 and {MOST_CONNECTIONS}")
        if self.per_second is not None and self.per_second <= 0:
            raise ValueError(f"per_second: {self.per_second} is not above 0")

    def dump(self) -> str:
        """Return it as JSON."""
        return orjson.dumps(asdict(self) | {"requests": str(self.requests)}).decode()

    @classmethod
    def load(cls, text: str) -> "Order":
        """Return what `dump` wrote."""
        fields: dict[str, Any] = orjson.loads(text)
        return cls(**fields | {"requests": Path(fields["requests"])})


_LATENCIES = ("latency", "service", "answers", "refusals", "lateness")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one load."""

    per_second: float | None
    """The rate in the order."""
    rps: float
    """Replies a second, within the measured time."""
    latency: Latency
    """From the intended start of each call, so without coordinated omission."""
    service: Latency
    """From the actual start."""
    lateness: Latency
    """How late calls started although a connection was free."""
    calls: int
    failures: dict[str, int]
    waited: int
    unfinished: int
    cpu_share: float
    """The generator's part of its core."""
    answers: Latency = field(default_factory=Latency)
    """As `latency`, of the calls that did not fail."""
    refusals: Latency = field(default_factory=Latency)
    """As `latency`, of the calls that failed."""

    @property
    def failed(self) -> int:
        """The number of failed calls."""
        return sum(self.failures.values())

    @property
    def bottleneck(self) -> str:
        """Why the generator, not the server, limits the figures; empty if it does not."""
        if self.cpu_share >= BUSY_SHARE:
            return f"the generator used {self.cpu_share:.0%} of its core"
        late_us = self.lateness.us(99)
        if self.per_second is not None and late_us > max(LATE_US, LATE_SHARE * self.latency.us(99)):
            return f"the generator started calls {late_us:,.0f} us late (p99) although connections were free"
        return ""

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values; the histograms are in HdrHistogram's own format."""
        histograms = {name: getattr(self, name).encode() for name in _LATENCIES}
        plain = (
            "per_second",
            "rps",
            "calls",
            "failures",
            "waited",
            "unfinished",
            "cpu_share",
            "bottleneck",
        )
        return {name: getattr(self, name) for name in plain} | histograms

    @classmethod
    def load(cls, values: dict[str, Any]) -> "Outcome":
        """Return what `dump` returned."""
        decoded: dict[str, Any] = {
            name: Latency.decode(value) if name in _LATENCIES else value
            for name, value in values.items()
            if name != "bottleneck"
        }
        return cls(**decoded)


def write_requests(file: Path, requests: Iterable[bytes]) -> Path:
    """Write requests in the order in which they are sent, each after its length in four bytes."""
    file.write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in requests))
    return file


def read_requests(file: Path) -> Sequence[bytes]:
    """Return what `write_requests` wrote."""
    return tuple(_read(file.read_bytes()))


def _read(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        yield data[start:at]
