"""The keys of a limits file, and the place of each."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

ROOT_KEYS: Final = ("domain", "descriptors", "revision")
DESCRIPTOR_KEYS: Final = (
    "key",
    "value",
    "descriptors",
    "rate_limit",
    "shadow_mode",
    "quota_mode",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
    "metadata",
    "normalise",
)
LIMIT_KEYS: Final = (
    "unit",
    "requests_per_unit",
    "unlimited",
    "name",
    "replaces",
    "unit_multiplier",
    "period",
    "cost",
    "algorithm",
    "burst",
    "charge_rejected",
    "on_failure",
    "concurrency",
    "release_after",
    "ban",
    "lease",
    "priority",
)
RATE_KEYS: Final = ("unit_multiplier", "period", "cost", "algorithm", "burst", "charge_rejected", "lease")
"""What only limits of hits in a period have, besides `unit` and `requests_per_unit`."""
_ALL_KEYS: Final = (*ROOT_KEYS, *DESCRIPTOR_KEYS, *LIMIT_KEYS)


def hint_for(key: str, known: Sequence[str]) -> str:
    """A hint about the unknown `key` in a place of `known` keys: where it belongs, or which key was meant."""
    if key in DESCRIPTOR_KEYS:
        return "; it belongs to a descriptor, next to its key"
    if key in LIMIT_KEYS:
        return "; it belongs below rate_limit"
    if key in ROOT_KEYS:
        return "; it belongs to the top of the file, next to domain and descriptors"
    close = get_close_matches(key, known, n=1) or get_close_matches(key, _ALL_KEYS, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
