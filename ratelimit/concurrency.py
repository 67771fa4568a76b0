"""Concurrency limits: what a limits file says about them, and who holds a slot."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

from common.buckets import MAX_SLOTS, SECOND_US, Slots
from ratelimit.keys import RATE_KEYS
from ratelimit.map_reader import MapReader
from ratelimit.match import Entry
from ratelimit.rules import LimitRule

RELEASE_AFTER_SECONDS: Final = 60
"""Four times Envoy's default timeout of a route (15 s)."""

MAX_RELEASE_AFTER_SECONDS: Final = 86_400

_HOLDER_BITS: Final = 52
"""Exact in a double of the Redis script, as every number there. Two of a thousand requests in flight share a
holder once in 10^10 times."""


def read_concurrency(descriptor: MapReader, limit: MapReader) -> dict[str, Any]:
    """Return the fields of the rule that `concurrency` of `limit` makes, whose problems say what is wrong."""
    for key in ("unit", "requests_per_unit", *RATE_KEYS):
        if key in limit.data:
            limit.problem(f"should not specify {key} with concurrency", key)
    if descriptor.text("value"):
        text = "a concurrency limit needs a descriptor without a value: its value is the id of the request"
        descriptor.problem(text, "value")
    for key in ("detailed_metric", "value_to_metric"):
        if descriptor.flag(key):
            descriptor.problem(f"{key} would show the id of each request", key)
    most = limit.number("concurrency", 1, 1, MAX_SLOTS)
    seconds = limit.seconds("release_after", RELEASE_AFTER_SECONDS, MAX_RELEASE_AFTER_SECONDS)
    return {"bucket": Slots(most, seconds * SECOND_US), "requests_per_unit": most}


def lasting_entries(rule: LimitRule, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries that name a key of `rule`: of a concurrency limit, all but the id of the request."""
    return entries[:-1] if isinstance(rule.bucket, Slots) else entries


def holder_of(request_id: str) -> int:
    """Return the holder of the slots of a request."""
    digest = int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest())
    return digest >> (64 - _HOLDER_BITS) or 1
