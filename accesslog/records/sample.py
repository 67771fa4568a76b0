"""Which records of ordinary, successful requests are kept. Errors, refusals and slow ones always are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

import orjson

_RANGE: Final = 2**32
_OUTCOMES: Final = ("authz_outcome", "authz_shadow_outcome", "ratelimit_outcome")
_REFUSED: Final = ["deny", "error", "over_limit"]
_FAILURES: Final = (
    "response_flags",
    "upstream_transport_failure_reason",
    "downstream_transport_failure_reason",
    "connection_termination_details",
)
_ENDS: Final = frozenset({None, "DownstreamEnd", "UpstreamEnd"})
"""The `access_log_type` of the last entry of a request; older Envoys send none."""

DECISIVE: Final = ("type", "access_log_type", "intermediate", "code", "route", *_OUTCOMES, *_FAILURES)
"""The fields that decide on what happens to a record, besides its id and its duration."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much is kept: `rate` 1.0 is everything, 0.1 one request in ten, 0.0 only what is always kept."""

    rate: float = 1.0
    routes: Mapping[str, float] = field(default_factory=dict)
    """The rates of some routes, by name."""
    slow_us: int | None = None
    """Requests that take this long are always kept."""

    def __post_init__(self) -> None:
        for rate in (self.rate, *self.routes.values()):
            if not 0 <= rate <= 1:
                raise ValueError(f"a sampling rate is a number from 0 to 1, not {rate}")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever left out."""
        return self.rate >= 1 and all(rate >= 1 for rate in self.routes.values())

    def rate_of(self, record: Mapping[str, Any]) -> float:
        """How much is kept of records with these `DECISIVE` fields."""
        return 1.0 if is_notable(record) else self.routes.get(record.get("route", ""), self.rate)

    def is_slow(self, duration_us: int) -> bool:
        """Whether a request is kept for its duration."""
        return self.slow_us is not None and duration_us >= self.slow_us


def keeps(sampling: Sampling, record: dict[str, Any], random: Callable[[], float]) -> bool:
    """Whether `record` is to be written; if it is by sampling, its `sample_rate` says so.

    `random` (as `random.random`) decides for entries without any id. A client that may choose its request id
    may choose to be left out, so what was refused or failed is kept.
    """
    rate = sampling.rate_of(record)
    if rate >= 1 or sampling.is_slow(record.get("duration_us", 0)):
        return True
    identity = record.get("request_id") or record.get("stream_id")
    if not is_chosen(orjson.dumps(identity)[1:-1] if identity else b"", rate, random):
        return False
    record["sample_rate"] = rate
    return True


def is_chosen(identity: bytes, rate: float, random: Callable[[], float]) -> bool:
    """Whether a request is among those that are kept, by its id as JSON has it, without quotes.

    The same request is kept or left out as a whole, in every sidecar that sees it: CRC-32 of its id below
    `rate` times 2**32 is kept.
    """
    return (crc32(identity) / _RANGE if identity else random()) < rate


def is_notable(record: Mapping[str, Any]) -> bool:
    """Whether a record tells of an error or a refusal.

    That is: code 0 or from 400, any response flag, a failed or cut connection, or an authz or ratelimit
    outcome of refusal whatever code Envoy made of it; that of a shadow rule too, since trying a rule is the
    reason to log. An HTTP entry that is not the last of its request (DownstreamStart, DownstreamPeriodic) has
    no code yet, which does not make it an error.
    """
    if any(record.get(field) for field in _FAILURES):
        return True
    # A list, because other filters may write anything there, also what has no hash.
    if any(record.get(field) in _REFUSED for field in _OUTCOMES):
        return True
    code = record.get("code")
    if code is None:
        return False
    if code == 0:
        return record.get("access_log_type") in _ENDS
    return bool(code >= 400)


def is_request(record: Mapping[str, Any]) -> bool:
    """Whether a record counts as a request: the last one of its request, at the listener."""
    ends = record.get("access_log_type") in {None, "DownstreamEnd"}
    return ends and record["type"] == "http" and not record.get("intermediate")
