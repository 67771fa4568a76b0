"""What a request may hold at most, and what is counted about requests that hold something odd."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from common.buckets import MAX_HITS
from protos.lenient import is_marked
from ratelimit.match import MAX_KEY_LENGTH
from ratelimit.request import BadInput, LimitRequest
from ratelimit.stores.store import Take


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a request may hold at most."""

    max_descriptors: int = 256
    """A route has a handful; a script over very many buckets would block Redis for all its clients."""
    max_entries: int = 100
    """Entries of a descriptor. Rules are a few levels deep, and 100,000 entries block the loop for 0.1 s."""
    max_key_length: int = MAX_KEY_LENGTH
    """A longer name of a bucket is replaced by its hash."""


DEFAULT_BOUNDS: Final = Bounds()


def oddities(request: LimitRequest, takes: Iterable[Take]) -> tuple[BadInput, ...]:
    """Return what is odd about a request that is answered: nothing, for almost every one."""
    found: set[BadInput] = set()
    for take in takes:
        if take.hits in {MAX_HITS, -MAX_HITS}:
            found.add(BadInput.HUGE_HITS)
        if "|" not in take.key:
            found.add(BadInput.LONG_KEY)
    for descriptor in request.descriptors:
        for key, value in descriptor.entries:
            if is_marked(value) or is_marked(key):
                found.add(BadInput.NOT_UTF8)
    return tuple(sorted(found)) if found else ()
