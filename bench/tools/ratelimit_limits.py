"""The limits and requests of the rate-limit benchmark, which peers can load and answer, too."""

from pathlib import Path
from typing import Final

from bench.tools.callers import CALLER
from protos.ratelimit_pb2 import RateLimitRequest

PATH: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
DOMAIN: Final = "bench"
PLENTY: Final = 100_000
"""Requests a year that none of many callers reaches. A bucket with one hit is full again after five minutes,
so none is dropped before that."""

ENDLESS: Final = 4_000_000_000
"""Requests a year that a single caller does not reach, either."""


def limits_file(folder: Path, limits: int) -> Path:
    """Write that many limits for each caller of a service; `target` is the one in the middle, and has plenty.

    `closed` lets a caller pass once a day, and `one` always.
    """
    lines = [
        f"domain: {DOMAIN}",
        "descriptors:",
        *_limit("closed", "day", 1),
        *_limit("one", "year", ENDLESS),
    ]
    for number in range(limits):
        name = "target" if number == limits // 2 else f"service-{number}"
        lines += _limit(name, "year", PLENTY)
    file = folder / f"limits-{limits}.yaml"
    file.write_text("\n".join([*lines, ""]))
    return file


def _limit(service: str, unit: str, requests: int) -> list[str]:
    return [
        f"  - key: service\n    value: {service}",
        f"    descriptors: [{{key: caller, rate_limit: {{unit: {unit}, requests_per_unit: {requests}}}}}]",
    ]


def request(service: str) -> bytes:
    """Return the request of a caller to `service`."""
    message = RateLimitRequest(domain=DOMAIN)
    descriptor = message.descriptors.add()
    descriptor.entries.add(key="service", value=service)
    descriptor.entries.add(key="caller", value=CALLER.decode())
    return message.SerializeToString()
