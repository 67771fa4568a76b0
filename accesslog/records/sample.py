"""Which records of ordinary, successful requests are kept. Errors and denials always are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

_RANGE: Final = 2**32
_OUTCOMES: Final = ("authz_outcome", "authz_shadow_outcome", "ratelimit_outcome")
_REFUSED: Final = frozenset({"deny", "error", "over_limit"})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much is kept: `rate` 1.0 is everything, 0.1 one request in ten, 0.0 errors and denials only."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"a sampling rate is a number from 0 to 1, not {self.rate}")


def keeps(sampling: Sampling, record: dict[str, Any], random: Callable[[], float]) -> bool:
    """Whether `record` is to be written; if it is by sampling, its `sample_rate` says so.

    The same request is kept or left out as a whole, in every sidecar that sees it: CRC-32 of its id below
    `rate` times 2**32 is kept. `random` (as `random.random`) decides for entries without any id. A client
    that may choose its request id may choose to be left out, so whatever was refused or failed is kept.
    """
    if sampling.rate >= 1 or is_notable(record):
        return True
    identity = record.get("request_id") or record.get("stream_id")
    position = crc32(identity.encode()) / _RANGE if identity else random()
    if position >= sampling.rate:
        return False
    record["sample_rate"] = sampling.rate * record.get("sample_rate", 1.0)
    return True


def is_notable(record: Mapping[str, Any]) -> bool:
    """Whether a record tells of an error or a denial.

    That is: code 0 or from 400, any response flag, a failed or cut connection, or an authz or ratelimit
    outcome of refusal whatever code Envoy made of it; that of a shadow rule too, since trying a rule is the
    reason to log. An HTTP entry that is not the last of its request (DownstreamStart, DownstreamPeriodic) has
    no code yet, which does not make it an error.
    """
    if record.get("response_flags") or record.get("upstream_transport_failure_reason"):
        return True
    if record.get("downstream_transport_failure_reason") or record.get("connection_termination_details"):
        return True
    if any(record.get(field) in _REFUSED for field in _OUTCOMES):
        return True
    code = record.get("code")
    if code is None:
        return False
    if code == 0:
        return record.get("access_log_type") in {None, "DownstreamEnd", "UpstreamEnd"}
    return bool(code >= 400)
