"""The most requests a second that an HTTP/1.1 server answers, by wrk, or by our own generator without it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.openloop.order import Order
from bench.openloop.run import perform_on
from bench.tools.load import LoadError
from bench.tools.processes import run

SCRIPT = """
local requests, at = {}, 0
function init(arguments)
  local file = io.open(arguments[1], "rb")
  while true do
    local head = file:read(4)
    if not head then break end
    local a, b, c, d = head:byte(1, 4)
    requests[#requests + 1] = file:read(((a * 256 + b) * 256 + c) * 256 + d)
  end
  file:close()
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "seconds": %.6f, "failed": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d}\\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
"""Reads the file of bench.openloop.order and sends its requests in turn."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """What a closed loop reached."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    bottleneck: str = ""


def wrk_installed() -> bool:
    """Whether wrk is on the PATH."""
    return shutil.which("wrk") is not None


def saturate(order: Order, core: int, *, tool: str) -> Saturation:
    """Send the requests of the order back to back, with wrk or our own generator (`tool`).

    Raises LoadError if a request fails.
    """
    return _by_wrk(order, core) if tool == "wrk" else _by_ourselves(order, core)


def _by_wrk(order: Order, core: int) -> Saturation:
    script = order.requests.with_name("wrk.lua")
    script.write_text(SCRIPT)
    if order.warm_up_seconds:
        run(_command(order, order.warm_up_seconds, script), core)
    output = run(_command(order, order.seconds, script), core)
    found: dict[str, Any] = orjson.loads(output.strip().splitlines()[-1])
    if found["failed"]:
        raise LoadError(f"{found['failed']} of {found['requests']} requests failed:\n{output}")
    requests = found["requests"]
    return Saturation(requests, requests / found["seconds"], float(found["p50_us"]), float(found["p99_us"]))


def _command(order: Order, seconds: float, script: Path) -> list[str]:
    # wrk takes whole seconds only.
    options = ["-t1", f"-c{order.connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    return ["wrk", *options, f"http://{order.host}:{order.port}", "--", str(order.requests)]


def _by_ourselves(order: Order, core: int) -> Saturation:
    outcome = perform_on(order, core)
    if outcome.failures:
        raise LoadError(f"requests failed: {outcome.failures}")
    latency = outcome.latency
    return Saturation(outcome.calls, outcome.rps, latency.us(50), latency.us(99), outcome.bottleneck)
