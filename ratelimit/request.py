"""The rate-limit call, without protobuf."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from ratelimit.match import Entry


class BadInput(StrEnum):
    """Why a request is refused, or what is odd about one that is answered: `reason` in metrics."""

    NOT_A_REQUEST = "not_a_request"
    """Refused: the bytes are not a RateLimitRequest."""
    NO_DOMAIN = "no_domain"
    """Refused."""
    NO_DESCRIPTORS = "no_descriptors"
    """Refused."""
    TOO_MANY_DESCRIPTORS = "too_many_descriptors"
    """Refused: more than `Bounds.max_descriptors`."""
    TOO_MANY_ENTRIES = "too_many_entries"
    """Refused: a descriptor with more than `Bounds.max_entries`."""
    BAD_OVERRIDE = "bad_override"
    """Refused: a limit with an unknown unit, or with a window that cannot be counted."""
    LONG_KEY = "long_key"
    """Answered: the bucket is named by a hash."""
    HUGE_HITS = "huge_hits"
    """Answered: hits beyond the largest limit count as that many."""
    NOT_UTF8 = "not_utf8"
    """Answered: each byte counts as what it is."""


class RequestError(Exception):
    """A request that is invalid under any configuration. The message reaches the caller."""

    def __init__(self, reason: BadInput, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class UnconfiguredError(Exception):
    """No configuration is loaded (yet). The message reaches the caller."""


class Override(NamedTuple):
    """A limit that the request brings along (RateLimitDescriptor.limit)."""

    requests_per_unit: int
    unit: int
    unit_multiplier: int = 1


class Descriptor(NamedTuple):
    """One thing to be limited."""

    entries: tuple[Entry, ...]
    hits: int | None = None
    """None: the request's. 0 only checks."""
    refund: bool = False
    """Gives the hits back (is_negative_hits)."""
    override: Override | None = None


class LimitRequest(NamedTuple):
    """All that one call asks."""

    domain: str
    descriptors: Sequence[Descriptor]
    hits_addend: int = 0
    """0: not set, which means 1."""
