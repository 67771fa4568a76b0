"""Load and its results: by h2load if it is installed, otherwise by our own generator."""

import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from subprocess import CalledProcessError
from typing import Any

import grpc
import orjson

from bench.tools.callers import Callers
from bench.tools.processes import load_core, run

_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: every connection keeps `streams` calls in flight, for `seconds` after a warm-up."""

    path: str
    message: bytes
    connections: int = 4
    streams: int = 16
    seconds: float = 2.0
    warm_up_seconds: float = 0.5
    callers: Callers | None = None
    """Who calls, where the message names a caller. Only `generator` can change the message."""
    timeout: str = "250m"
    """What each call gives as its `grpc-timeout`. Only `generator` sends it."""
    answer: bytes = b""
    """What the message of each answer begins with; `generator` raises LoadError for any other."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run, or the median of several."""

    rps: float
    p50_us: float
    p99_us: float
    calls: float = 0
    """All that were answered, with those of the warm-up; 0 where the tool does not say."""


class LoadError(Exception):
    """Calls failed, so the figures would be those of errors."""


def middle(results: list[Result]) -> Result:
    """The median of each figure."""
    return Result(
        median(result.rps for result in results),
        median(result.p50_us for result in results),
        median(result.p99_us for result in results),
        sum(result.calls for result in results),
    )


def percentiles(times_us: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile."""
    cuts = quantiles(times_us, n=100, method="inclusive")
    return cuts[49], cuts[98]


def h2load_installed() -> bool:
    """Whether h2load is on the PATH."""
    return shutil.which("h2load") is not None


def h2load(port: int, load: Load) -> Result:
    """Run h2load once for the rate and once for the percentiles, because logging calls slows it down."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(_prefixed(load.message))
        output = run(_h2load_command(port, load, body), load_core())
        _check_h2load(output)
        rate = re.search(r"finished in [^,]*, ([0-9.]+) req/s", output)
        if rate is None:
            raise LoadError(output)
        _check_h2load(run([*_h2load_command(port, load, body), f"--log-file={log}"], load_core()))
        times = [float(line.rpartition("\t")[2]) for line in log.read_text().splitlines()]
    return Result(float(rate[1]), *percentiles(times))


def _h2load_command(port: int, load: Load, body: Path) -> list[str]:
    return [
        *(
            "h2load",
            "-D",
            f"{load.seconds * 1000:.0f}ms",
            "--warm-up-time",
            f"{load.warm_up_seconds * 1000:.0f}ms",
        ),
        *("-c", str(load.connections), "-m", str(load.streams), "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://127.0.0.1:{port}{load.path}",
    ]


def _check_h2load(output: str) -> None:
    if not re.search(r" 0 failed, 0 errored, 0 timeout", output) or " 0 3xx, 0 4xx, 0 5xx" not in output:
        raise LoadError(output)


def generator(port: int, load: Load, *, tracing: bool = False) -> Result:
    """Run the same load with bench.tools.generator; with `tracing` each call has its own traceparent."""
    order = {
        "port": port,
        "path": load.path,
        "message": load.message.hex(),
        "connections": load.connections,
        "streams": load.streams,
        "seconds": load.seconds,
        "warm_up_seconds": load.warm_up_seconds,
        "tracing": tracing,
        "callers": None if load.callers is None else list(load.callers),
        "answer": load.answer.hex(),
        "timeout": load.timeout,
    }
    command = [sys.executable, "-m", "bench.tools.generator", orjson.dumps(order).decode()]
    try:
        output = run(command, load_core())
    except CalledProcessError as error:
        raise LoadError(error.output.decode().strip().rpartition("\n")[2]) from None
    answer = orjson.loads(output.splitlines()[-1])
    return Result(answer["rps"], answer["p50_us"], answer["p99_us"], answer["calls"])


def check_answer(port: int, load: Load) -> None:
    """Make one call with grpcio. Raises grpc.RpcError if it fails: a server that refuses is fast, too."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary(load.path)
        ask(load.message, timeout=_ANSWER_SECONDS, wait_for_ready=True)


def any_load(port: int, load: Load) -> Result:
    """Run h2load if it is installed, else our own generator."""
    return h2load(port, load) if h2load_installed() else generator(port, load)


def _prefixed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message
