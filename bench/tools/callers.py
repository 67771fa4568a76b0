"""The messages of many callers: each call names one of them."""

from collections.abc import Iterator
from itertools import accumulate, count, cycle
from random import Random
from typing import Final, Literal, NamedTuple

CALLER: Final = b"c0000000"
"""The place of the caller in a message."""

_ZIPF_DRAWS: Final = 200_000
"""Drawn in advance and repeated: drawing costs more than a call."""


class Callers(NamedTuple):
    """Who calls: `number` callers, one after another or by Zipf's law with exponent 1."""

    number: int
    order: Literal["rotation", "zipf"]
    first: int = 0
    """Where a rotation begins, or the seed of the draws."""


def messages(template: bytes, callers: Callers) -> Iterator[bytes]:
    """Return the messages of all calls, without end: `template` with each caller in the place of CALLER."""
    before, place, after = template.partition(CALLER)
    if not place or CALLER in after:
        raise ValueError(f"the message must hold {CALLER!r} once")
    return (b"%bc%07d%b" % (before, caller, after) for caller in _numbers(callers))


def _numbers(callers: Callers) -> Iterator[int]:
    number = callers.number
    if callers.order == "rotation":
        return (caller % number for caller in count(callers.first))
    weights = list(accumulate(1 / rank for rank in range(1, number + 1)))
    return cycle(Random(callers.first).choices(range(number), cum_weights=weights, k=_ZIPF_DRAWS))
