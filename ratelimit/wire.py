"""Decodes RateLimitRequest and encodes RateLimitResponse.

This is the path of every request, so a response is joined from parts: what a rule or a request always
comes to is encoded once, by protobuf, and kept; only the numbers between are written here. The tests hold
each field against the generated classes.
"""

from dataclasses import dataclass
from typing import Final, Literal

from google.protobuf.struct_pb2 import Struct

from protos.core_pb2 import HeaderValue
from protos.lenient import parse
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from protos.wire import varint
from ratelimit.cache import GenerationalCache
from ratelimit.decision import DescriptorStatus, LimitDecision
from ratelimit.metadata import explain
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import LimitRule

MAX_DURATION_SECONDS: Final = 315_576_000_000
"""The longest google.protobuf.Duration; a huge burst with a tiny refill would pass it."""

MetadataDetail = Literal["off", "rule", "full"]
"""How much of a decision the access log learns: nothing, the rule that decided, or the descriptors too."""

RULES_REMEMBERED: Final = 10_000
"""Rules whose `current_limit` is kept encoded."""


def read_request(message: bytes) -> LimitRequest:
    """A RateLimitRequest as the library takes it. Raises DecodeError.

    Entries hold bytes that clients choose; those that are not UTF-8 are marked (`protos.lenient`), so that
    they count like any other value, each by itself.
    """
    request = parse(RateLimitRequest, message)
    descriptors = tuple([_descriptor(descriptor) for descriptor in request.descriptors])
    return LimitRequest(request.domain, descriptors, request.hits_addend)


def _descriptor(descriptor: RateLimitDescriptor) -> Descriptor:
    entries = tuple([(entry.key, entry.value) for entry in descriptor.entries])
    hits = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None
    override = None
    if descriptor.HasField("limit"):
        limit = descriptor.limit
        multiplier = limit.unit_multiplier.value if limit.HasField("unit_multiplier") else 1
        override = Override(limit.requests_per_unit, limit.unit, multiplier)
    return Descriptor(entries, hits, descriptor.is_negative_hits, override)


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """Names of the response headers that report the rule that decided."""

    limit: str
    remaining: str
    reset: str


class Responses:
    """Encodes decisions. `headers` None adds none of them; `retry_after` adds Retry-After to a refusal."""

    def __init__(
        self, *, headers: ResponseHeaders | None, retry_after: bool, dynamic_metadata: MetadataDetail
    ) -> None:
        self._headers = headers
        self._retry_after = retry_after
        self._metadata = dynamic_metadata
        self._limits: GenerationalCache[LimitRule, bytes] = GenerationalCache(RULES_REMEMBERED)

    def encode(self, decision: LimitDecision) -> bytes:
        """The RateLimitResponse of `decision`: complete statuses in the order of the request."""
        parts = [_OVER_LIMIT if decision.over_limit else _OK]
        for status in decision.statuses:
            encoded = self._status(status)
            parts += (_STATUSES, varint(len(encoded)), encoded)
        parts += self._response_headers(decision)
        if self._metadata != "off":
            parts.append(self._dynamic_metadata(decision, decision.deciding))
        return b"".join(parts)

    def _status(self, status: DescriptorStatus) -> bytes:
        code = _OVER_LIMIT if status.over_limit else _OK
        remaining = _LIMIT_REMAINING + varint(status.remaining) if status.remaining else b""
        rule = status.current
        if rule is None:
            return code + remaining
        limit = self._limits.get(rule)
        if limit is None:
            limit = _CURRENT_LIMIT + _sized(_encode_limit(rule))
            self._limits.put(rule, limit)
        seconds = status.reset_seconds
        if seconds == 0:
            return code + limit + remaining + _NO_DURATION
        reset = varint(min(seconds, MAX_DURATION_SECONDS))
        return code + limit + remaining + _DURATION + varint(len(reset) + 1) + _SECONDS + reset

    def _response_headers(self, decision: LimitDecision) -> list[bytes]:
        names = self._headers
        headers: list[bytes] = []
        closest = None if names is None else decision.closest
        if names is not None and closest is not None and (rule := closest.current) is not None:
            headers.append(_response_header(names.limit, rule.requests_per_unit))
            headers.append(_response_header(names.remaining, closest.remaining))
            headers.append(_response_header(names.reset, closest.reset_seconds))
        if decision.over_limit and self._retry_after:
            seconds = decision.retry_after_seconds
            if seconds:
                headers.append(_response_header("Retry-After", seconds))
        return headers

    def _dynamic_metadata(self, decision: LimitDecision, deciding: DescriptorStatus | None) -> bytes:
        plan = decision.plan
        rule = None if deciding is None else deciding.rule
        # Which rules passed matters where they have metadata to add.
        passed = tuple([status.over_limit for status in decision.statuses]) if plan.has_metadata else ()
        outcome = (decision.over_limit, decision.reason, rule, passed)
        encoded = plan.memos.get(outcome)
        if encoded is None:
            metadata = Struct()
            metadata.update(explain(decision, full=self._metadata == "full"))
            encoded = _DYNAMIC_METADATA + _sized(metadata.SerializeToString())
            plan.remember(outcome, encoded)
        return encoded


def _encode_limit(rule: LimitRule) -> bytes:
    limit = RateLimitResponse.RateLimit(
        requests_per_unit=rule.requests_per_unit, unit=rule.unit.name, name=rule.name
    )
    if rule.unit_multiplier != 1:
        limit.unit_multiplier.value = rule.unit_multiplier
    return limit.SerializeToString()


def _response_header(name: str, value: int) -> bytes:
    header = HeaderValue(key=name, value=str(value))
    return _RESPONSE_HEADER + _sized(header.SerializeToString())


def _sized(content: bytes) -> bytes:
    return varint(len(content)) + content


# Tags: field number << 3 | wire type (0 varint, 2 with a length).
_OK: Final = b"\x08\x01"  # overall_code = 1 of the response, and code = 1 of a status
_OVER_LIMIT: Final = b"\x08\x02"
_STATUSES: Final = b"\x12"  # 2
_RESPONSE_HEADER: Final = b"\x1a"  # 3
_DYNAMIC_METADATA: Final = b"\x32"  # 6
_CURRENT_LIMIT: Final = b"\x12"  # 2 of a status
_LIMIT_REMAINING: Final = b"\x18"  # 3
_DURATION: Final = b"\x22"  # 4
_NO_DURATION: Final = b"\x22\x00"
_SECONDS: Final = b"\x08"  # 1 of a Duration
