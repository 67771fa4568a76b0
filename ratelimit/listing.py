"""Limits as lines of text: what envoyproxy/ratelimit shows at `/rlconfig`."""

from collections.abc import Iterator

from common.buckets import TokenBucket
from ratelimit.rules import Algorithm, CompiledLimits, LimitRule, algorithm_of


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
    if rule.calendar_period:
        yield f"period: {rule.calendar_period}"
    elif rule.unit_multiplier > 1:
        yield f"unit_multiplier: {rule.unit_multiplier}"
    bucket = rule.bucket
    if bucket is None:
        return
    algorithm = algorithm_of(bucket)
    if algorithm is not Algorithm.FIXED_WINDOW:
        yield f"algorithm: {algorithm.value}"
    if isinstance(bucket, TokenBucket) and bucket.capacity != rule.requests_per_unit:
        yield f"burst: {bucket.capacity}"
    if bucket.charge_rejected != (algorithm is Algorithm.FIXED_WINDOW):
        yield f"charge_rejected: {str(bucket.charge_rejected).lower()}"
