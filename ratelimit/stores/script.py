"""The script that takes from buckets in Redis, its argument, and what it stores."""

import re
from collections.abc import Sequence
from importlib.resources import files
from struct import Struct
from typing import Final

from common.buckets import Bucket, CalendarWindow, FixedWindow, SlidingWindow, Slots, State, TokenBucket
from ratelimit.stores.store import Mode, Take

_TAKE: Final = Struct("<HBBdddd")
_SPARE, _LAST = 8, 16
_SLOTS: Final = re.compile("(?:[0-9]{16}@[0-9]{16} )*")
_MODES: Final = {Mode.ENFORCE: 2, Mode.QUOTA: 4, Mode.SHADOW: 0}

_WRONG_TYPE: Final = re.compile(r"WRONGTYPE.*\(key (\d+)\)")
"""The error text of the script."""


def script_text() -> str:
    """The script that takes from buckets."""
    return files("ratelimit.stores").joinpath("scripts/take.lua").read_text(encoding="utf-8")


def read_state(bucket: Bucket, stored: bytes | str | None) -> State | None:
    """The state that the script stored. None where nothing of its own is stored, as the script sees it."""
    if stored is None:
        return None
    if isinstance(bucket, Slots):
        text = stored if isinstance(stored, str) else stored.decode("latin-1")
        return tuple(map(int, text.replace("@", " ").split())) or None if _SLOTS.fullmatch(text) else None
    numbers = stored.split()
    try:
        if isinstance(bucket, TokenBucket) and len(numbers) == 3:
            used, parts, at_us = numbers
            return int(used) * bucket.period_us + int(parts), int(at_us)
        if len(numbers) == (3 if isinstance(bucket, SlidingWindow) else 2):
            return tuple(map(int, numbers))
    except ValueError:
        return None
    return None


def encode_takes(requests: Sequence[Sequence[Take]], keys: Sequence[str]) -> bytes:
    """Return the takes of `requests` as the script reads them. `keys` has the key of each bucket once."""
    if len(keys) == 1 and len(requests) == 1 and len(requests[0]) == 1:
        return _encode_take(requests[0][0], 1, _LAST)
    positions = {key: position for position, key in enumerate(keys, start=1)}
    encoded = bytearray()
    for takes in requests:
        last = len(takes) - 1
        for index, take in enumerate(takes):
            encoded += _encode_take(take, positions[take.key], _LAST if index == last else 0)
    return bytes(encoded)


def _encode_take(take: Take, position: int, flags: int) -> bytes:
    _, bucket, hits, mode, spare = take
    flags |= _MODES[mode] | bucket.charge_rejected | (_SPARE * spare)
    if isinstance(bucket, TokenBucket):
        return _TAKE.pack(position, flags, 0, bucket.capacity, hits, bucket.refill_tokens, bucket.period_us)
    if isinstance(bucket, CalendarWindow):
        kind, refill, period = 3, 0, bucket.months
    elif isinstance(bucket, Slots):
        kind, refill, period = 4, bucket.holder, bucket.lease_us
    else:
        kind, refill, period = 1 if isinstance(bucket, FixedWindow) else 2, 0, bucket.window_us
    return _TAKE.pack(position, flags, kind, bucket.size, hits, refill, period)


def unreadable_key(detail: str) -> int | None:
    """Which key of a call holds something other than text, from 0; None where that is not why it failed."""
    found = _WRONG_TYPE.search(detail)
    return None if found is None else int(found[1]) - 1
