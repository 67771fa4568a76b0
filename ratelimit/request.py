"""The rate-limit call, without protobuf."""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit.match import Entry


class RequestError(Exception):
    """A request that is invalid under any configuration. The message reaches the caller."""


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
