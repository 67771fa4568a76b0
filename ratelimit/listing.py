"""Limits as lines of text: what envoyproxy/ratelimit shows at `/rlconfig`."""

from collections.abc import Iterator

from common.buckets import FixedWindow, TokenBucket
from ratelimit.rules import CompiledLimits, LimitRule


def described(limits: CompiledLimits) -> Iterator[str]:
    """A line for each rule, in the order of the files.

    What envoyproxy/ratelimit does not know is added at the end, where it is not what it would do.
    """
    for rule in limits.rules:
        unit = "UNKNOWN" if rule.unlimited else rule.unit.name
        shadow, quota = str(rule.shadow_mode).lower(), str(rule.quota_mode).lower()
        line = f"{rule.key}: unit={unit} requests_per_unit={rule.requests_per_unit}"
        yield ", ".join([line, f"shadow_mode: {shadow}", f"quota_mode: {quota}", *_more(rule)])


def _more(rule: LimitRule) -> Iterator[str]:
    if rule.unit_multiplier > 1:
        yield f"unit_multiplier: {rule.unit_multiplier}"
    if isinstance(rule.bucket, TokenBucket):
        yield "algorithm: token_bucket"
        if rule.bucket.capacity != rule.requests_per_unit:
            yield f"burst: {rule.bucket.capacity}"
        if rule.bucket.charge_rejected:
            yield "charge_rejected: true"
    elif isinstance(rule.bucket, FixedWindow) and not rule.bucket.charge_rejected:
        yield "charge_rejected: false"
