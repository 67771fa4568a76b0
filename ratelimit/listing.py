"""Limits in words, as plain data, and as the lines that envoyproxy/ratelimit shows at `/rlconfig`."""

from collections.abc import Iterator
from typing import Any, Final

from common.buckets import SECOND_US, Bucket, Slots, TokenBucket
from ratelimit.rules import (
    UNIT_SECONDS,
    Algorithm,
    BanRule,
    CompiledLimits,
    LimitRule,
    Priority,
    Unit,
    algorithm_of,
)

_LETTERS: Final = {Unit.SECOND: "s", Unit.MINUTE: "m", Unit.HOUR: "h", Unit.DAY: "d", Unit.WEEK: "w"}


def described(limits: CompiledLimits) -> Iterator[str]:
    """A line for each rule, in the order of the files.

    What envoyproxy/ratelimit does not know is added at the end, where it is not what it would do.
    """
    for rule in limits.rules:
        unit = "UNKNOWN" if rule.unlimited or isinstance(rule.bucket, Slots) else rule.unit.name
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
    if isinstance(bucket, Slots):
        yield f"concurrency: {bucket.limit}"
        yield f"release_after: {bucket.lease_us // SECOND_US}s"
        return
    algorithm = algorithm_of(bucket)
    if algorithm is not Algorithm.FIXED_WINDOW:
        yield f"algorithm: {algorithm.value}"
    if isinstance(bucket, TokenBucket) and bucket.capacity != rule.requests_per_unit:
        yield f"burst: {bucket.capacity}"
    if _charges_unusually(bucket):
        yield f"charge_rejected: {str(bucket.charge_rejected).lower()}"


def _charges_unusually(bucket: Bucket) -> bool:
    return bucket.charge_rejected != (algorithm_of(bucket) is Algorithm.FIXED_WINDOW)


def limit_text(rule: LimitRule) -> str:
    """Return the limit of a rule in words, such as `100 per 30 seconds, token_bucket, burst 50`."""
    bucket = rule.bucket
    if bucket is None:
        return "unlimited"
    if isinstance(bucket, Slots):
        words = [f"{bucket.limit} at once", f"release_after {bucket.lease_us // SECOND_US}s"]
        return ", ".join([*words, *_modes_and_failure(rule)])
    period = rule.unit.name.lower()
    if rule.calendar_period:
        period = f"calendar {rule.calendar_period}"
    elif rule.unit_multiplier > 1:
        period = f"{rule.unit_multiplier} {period}s"
    words = [f"{rule.requests_per_unit} per {period}", algorithm_of(bucket).value]
    if isinstance(bucket, TokenBucket) and bucket.capacity != rule.requests_per_unit:
        words.append(f"burst {bucket.capacity}")
    if rule.cost != 1:
        words.append(f"cost {rule.cost}")
    if _charges_unusually(bucket):
        words.append("charge_rejected" if bucket.charge_rejected else "charge_rejected false")
    return ", ".join([*words, *_modes_and_failure(rule)])


def _modes_and_failure(rule: LimitRule) -> Iterator[str]:
    if rule.shadow_mode:
        yield "shadow_mode"
    if rule.quota_mode:
        yield "quota_mode"
    if rule.lease:
        yield "lease"
    if rule.ban is not None:
        yield f"ban {rule.ban.seconds}s after {rule.ban.rejections.limit + 1} rejections"
    if rule.priority is Priority.HIGH:
        yield "priority high"
    yield f"on_failure {rule.on_failure.value}"


def limits_data(limits: CompiledLimits, most: int | None = None) -> dict[str, Any]:
    """Return the limits as plain data, in the order of the files: a format that only ever gains keys.

    `most` is the number of rules to list; None for all.
    """
    return {
        "revision": limits.revision,
        "domains": sorted(limits.domains),
        "rules_in_all": len(limits.rules),
        "rules": [_rule_data(rule) for rule in limits.rules[:most]],
        "warnings": list(map(str, limits.warnings)),
    }


def _rule_data(rule: LimitRule) -> dict[str, Any]:
    bucket = rule.bucket
    return {
        "rule": rule.key,
        "domain": rule.path[0],
        "path": list(rule.path[1:]),
        "limit": limit_text(rule),
        "requests_per_unit": None if bucket is None else rule.requests_per_unit,
        "period": None if bucket is None else period_of(rule),
        "algorithm": None if bucket is None or isinstance(bucket, Slots) else algorithm_of(bucket).value,
        "concurrency": bucket.limit if isinstance(bucket, Slots) else None,
        "release_after_seconds": bucket.lease_us // SECOND_US if isinstance(bucket, Slots) else None,
        "burst": bucket.capacity if isinstance(bucket, TokenBucket) else None,
        "cost": rule.cost,
        "charge_rejected": None if bucket is None else bucket.charge_rejected,
        "on_failure": rule.on_failure.value,
        "lease": rule.lease,
        "ban": None if rule.ban is None else _ban_data(rule.ban),
        "priority": rule.priority.value,
        "shadow_mode": rule.shadow_mode,
        "quota_mode": rule.quota_mode,
        "name": rule.name or None,
        "replaces": sorted(rule.replaces),
        "source": rule.source,
    }


def _ban_data(ban: BanRule) -> dict[str, int]:
    return {
        "after": ban.rejections.limit + 1,
        "within_seconds": ban.rejections.window_us // SECOND_US,
        "for_seconds": ban.seconds,
    }


def period_of(rule: LimitRule) -> str | None:
    """The period as `period` of a limits file has it, such as `30s` or `month`; None without a rate."""
    if isinstance(rule.bucket, Slots):
        return None
    if rule.calendar_period:
        return rule.calendar_period
    letter = _LETTERS.get(rule.unit)
    if letter is not None:
        return f"{rule.unit_multiplier}{letter}"
    return f"{UNIT_SECONDS[rule.unit] * rule.unit_multiplier // UNIT_SECONDS[Unit.DAY]}d"
