"""Decodes RateLimitRequest and encodes RateLimitResponse.

This is the path of every request, so a response is joined from parts: what a rule or a request always
comes to is encoded once, by protobuf, and kept; only the numbers between are written here. The tests hold
each field against the generated classes.
"""

from dataclasses import dataclass
from struct import Struct as Packing
from typing import Final, Literal

from common.buckets import Slots
from protos.lenient import MARK_BYTES, parse
from protos.ratelimit_descriptor_pb2 import RateLimitDescriptor
from protos.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from protos.structs import encode_struct
from protos.wire import WireError, read_varint, varint
from ratelimit.cache import GenerationalCache
from ratelimit.decision import UNMATCHED, DescriptorStatus, LimitDecision, Told
from ratelimit.metadata import entry_texts, explain_outcome, explain_request, remaining_told_below
from ratelimit.request import Descriptor, LimitRequest, Override
from ratelimit.rules import LimitRule
from ratelimit.secret_values import SecretValues

MAX_DURATION_SECONDS: Final = 315_576_000_000
"""The longest google.protobuf.Duration; a huge burst with a tiny refill would pass it."""

MetadataDetail = Literal["off", "rule", "full"]
"""How much of a decision the access log learns: nothing, the rule that decided, or the descriptors too."""

RULES_REMEMBERED: Final = 10_000
"""Rules whose `current_limit` is kept encoded."""


Shape = tuple[str | None, ...]
"""The domain of a request, then for each descriptor None and its keys."""


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


def split(message: bytes) -> tuple[Shape, list[str], int] | None:
    """The keys, the values and the hits of a RateLimitRequest that has nothing else; None for any other.

    Reads the bytes that Envoy writes: fields in the order of their numbers, each once, keys and values UTF-8.
    Bytes that are not a RateLimitRequest are never taken for one.
    """
    if MARK_BYTES in message:
        return None
    keys: list[str | None] = []
    values: list[str] = []
    hits = 0
    try:
        if message[0] != _DOMAIN:
            return None
        size, position = message[1], 2
        if size > _MOST_IN_A_BYTE:
            size, position = _long_size(message, 1)
        stop, end = position + size, len(message)
        keys.append(str(message[position:stop], "utf-8"))
        position = stop
        while position < end and message[position] == _DESCRIPTOR:
            size = message[position + 1]
            position += 2
            if size > _MOST_IN_A_BYTE:
                size, position = _long_size(message, position - 1)
            stop = position + size
            keys.append(None)
            while position < stop:
                # An entry: its size, the size of the key, the key, the size of the value, the value.
                entry_size = message[position + 1]
                key_at = position + 2
                if entry_size > _MOST_IN_A_BYTE:
                    entry_size, key_at = _long_size(message, position + 1)
                entry_end = key_at + entry_size
                key_end = key_at + 2 + message[key_at + 1]
                value_size = message[key_end + 1]
                value_at = key_end + 2
                if value_size > _MOST_IN_A_BYTE:
                    value_size, value_at = _long_size(message, key_end + 1)
                if (
                    message[position] != _ENTRY
                    or message[key_at] != _KEY
                    or message[key_at + 1] > _MOST_IN_A_BYTE
                    or message[key_end] != _VALUE
                    or value_at + value_size != entry_end
                ):
                    return None
                keys.append(str(message[key_at + 2 : key_end], "utf-8"))
                values.append(str(message[value_at:entry_end], "utf-8"))
                position = entry_end
            if position != stop:
                return None
        if position + 2 == end and message[position] == _HITS and message[position + 1] <= _MOST_IN_A_BYTE:
            hits = message[position + 1]
            position = end
    except (IndexError, UnicodeDecodeError):
        return None
    return (tuple(keys), values, hits) if position == end else None


def _long_size(message: bytes, position: int) -> tuple[int, int]:
    """A size of two bytes or more, and the position after it. Raises IndexError where there is none."""
    try:
        return read_varint(message, position)
    except WireError:
        raise IndexError from None


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
        if decision.over_limit or self._headers is not None:
            parts += self._response_headers(decision)
        if self._metadata != "off":
            parts.append(self._dynamic_metadata(decision))
        return b"".join(parts)

    def _status(self, status: DescriptorStatus) -> bytes:
        over_limit, rule, left, seconds, _, _, known = status
        encoded = _OVER_LIMIT if over_limit else _OK
        remaining = _LIMIT_REMAINING + varint(left) if left else b""
        if rule is None or rule.bucket is None or not known:
            return encoded + remaining
        limit = self._limits.get(rule)
        if limit is None:
            limit = _CURRENT_LIMIT + _sized(_encode_limit(rule))
            self._limits.put(rule, limit)
        if seconds <= _MOST_IN_A_BYTE:
            return encoded + limit + remaining + _SHORT_DURATIONS[seconds]
        reset = varint(min(seconds, MAX_DURATION_SECONDS))
        return b"%b%b%b\x22%c\x08%b" % (encoded, limit, remaining, len(reset) + 1, reset)

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

    def _dynamic_metadata(self, decision: LimitDecision) -> bytes:
        over_limit, statuses, plan, failure, shadowed, _ = decision
        # All that the part of the rules depends on: which of them passed matters where there are several.
        outcome: object
        if len(statuses) == 1:
            deciding = statuses[0]
            outcome = over_limit, failure, shadowed, deciding.over_limit
        else:
            passed = tuple([status.over_limit for status in statuses]) if plan.has_metadata else ()
            deciding = decision.deciding or UNMATCHED
            outcome = (
                over_limit,
                failure,
                shadowed,
                deciding.over_limit,
                deciding.known,
                deciding.rule,
                passed,
            )
        memos = plan.memos
        told = None if memos is None else memos.get(outcome)
        if told is None:
            told = Told(encode_struct(explain_outcome(decision)), remaining_told_below(decision))
            if memos is not None:
                memos.put(outcome, told)
        encoded, remaining_below = told
        if deciding.remaining < remaining_below:
            encoded += _REMAINING + _DOUBLE.pack(deciding.remaining)
        if self._metadata == "full":
            encoded += _encode_request(plan.request, plan.limits.options.secrets)
        return _DYNAMIC_METADATA + varint(len(encoded)) + encoded


def _encode_request(request: LimitRequest, secrets: SecretValues) -> bytes:
    """`explain_request` as a Struct; written here for what Envoy sends most: short, plain descriptors."""
    if not request.hits_addend:
        items = [_short_descriptor(descriptor, secrets) for descriptor in request.descriptors]
        if b"" not in items:
            listed = b"".join(items)
            if MARK_BYTES not in listed:
                content = _LIST + varint(len(listed)) + listed
                entry = _DESCRIPTORS + varint(len(content)) + content
                return b"\x0a" + varint(len(entry)) + entry
    return encode_struct(explain_request(request, secrets))


def _short_descriptor(descriptor: Descriptor, secrets: SecretValues) -> bytes:
    """An item of a list: the Struct of a descriptor with short entries and nothing else; empty for others."""
    if descriptor.hits is not None or descriptor.override is not None:
        return b""
    entries = b""
    for entry in entry_texts(descriptor, secrets):
        text = entry.encode()
        if len(text) > _SHORT_ENTRIES:
            return b""
        entries += _TEXT_HEADS[len(text)] + text
    return _DESCRIPTOR_HEADS[len(entries)] + entries if len(entries) <= _SHORT_ENTRIES else b""


def _encode_limit(rule: LimitRule) -> bytes:
    unit = "UNKNOWN" if isinstance(rule.bucket, Slots) else rule.unit.name
    limit = RateLimitResponse.RateLimit(requests_per_unit=rule.requests_per_unit, unit=unit, name=rule.name)
    if rule.unit_multiplier != 1:
        limit.unit_multiplier.value = rule.unit_multiplier
    return limit.SerializeToString()


def _response_header(name: str, value: int) -> bytes:
    key, text = name.encode(), b"%d" % value
    return _RESPONSE_HEADER + _sized(b"".join((b"\x0a", _sized(key), b"\x12", _sized(text))))


def _sized(content: bytes) -> bytes:
    return varint(len(content)) + content


_DESCRIPTORS: Final = b"\x0a\x0bdescriptors\x12"
"""An entry of a Struct: its key, and the tag of its value."""
_LIST: Final = b"\x32"
"""The tag of a list in a Value."""
_SHORT_ENTRIES: Final = 0x7F - 17
"""The longest texts whose sizes all fit into one byte."""
_TEXT_HEADS: Final = tuple(b"\x0a%c\x1a%c" % (size + 2, size) for size in range(_SHORT_ENTRIES + 1))
"""What comes before an item of a list that is a text, by the size of the text."""
_DESCRIPTOR_HEADS: Final = tuple(
    b"\x0a%c\x2a%c\x0a%c\x0a\x07entries\x12%c\x32%c" % (size + 17, size + 15, size + 13, size + 2, size)
    for size in range(_SHORT_ENTRIES + 1)
)
"""What comes before an item that is a Struct with one entry, `entries`, a list, by the size of the list."""

_REMAINING: Final = b"\x0a\x16\x0a\x09remaining\x12\x09\x11"
"""An item of a Struct: `remaining`, a number, whose eight bytes follow."""
_DOUBLE: Final = Packing("<d")

# Tags of the request: field number << 3 | wire type (0 varint, 2 with a length).
_DOMAIN: Final = 0x0A  # 1
_DESCRIPTOR: Final = 0x12  # 2
_HITS: Final = 0x18  # 3
_ENTRY: Final = 0x0A  # 1 of a descriptor
_KEY: Final = 0x0A  # 1 of an entry
_VALUE: Final = 0x12  # 2 of an entry
_MOST_IN_A_BYTE: Final = 0x7F
"""The largest number that a varint holds in one byte."""

# Tags of the response: field number << 3 | wire type (0 varint, 2 with a length).
_OK: Final = b"\x08\x01"  # overall_code = 1 of the response, and code = 1 of a status
_OVER_LIMIT: Final = b"\x08\x02"
_STATUSES: Final = b"\x12"  # 2
_RESPONSE_HEADER: Final = b"\x1a"  # 3
_DYNAMIC_METADATA: Final = b"\x32"  # 6
_CURRENT_LIMIT: Final = b"\x12"  # 2 of a status
_LIMIT_REMAINING: Final = b"\x18"  # 3
_SHORT_DURATIONS: Final = (
    b"\x22\x00",  # 4, a Duration, whose seconds are its field 1
    *(b"\x22\x02\x08%c" % seconds for seconds in range(1, _MOST_IN_A_BYTE + 1)),
)
