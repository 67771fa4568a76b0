"""From a request to the rules it falls under and the buckets they charge."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from common.buckets import MAX_HITS, MAX_WINDOW_US, SECOND_US, Slots
from protos.lenient import shown
from ratelimit.bad_input import DEFAULT_BOUNDS, Bounds, oddities
from ratelimit.concurrency import holder_of
from ratelimit.decision import UNMATCHED, Charge, DescriptorStatus, LimitPlan
from ratelimit.match import Entry, Match, bucket_key, match, metric_path
from ratelimit.request import (
    BadInput,
    Descriptor,
    LimitRequest,
    Override,
    RequestError,
    UnconfiguredError,
)
from ratelimit.rules import (
    BLANKS,
    UNIT_SECONDS,
    CompiledLimits,
    LimitRule,
    Node,
    Unit,
    build_bucket,
    goes_into_debt,
)
from ratelimit.secret_values import SecretValues
from ratelimit.stats import Counts, Stats
from ratelimit.stores.store import Mode, Take
from ratelimit.token_budgets import TokenBudgets

UNLIMITED: Final = 2**32 - 1
"""`limit_remaining` of an unlimited rule."""


@dataclass(frozen=True, slots=True)
class Modes:
    """How a limiter treats all its rules."""

    near_limit_ratio: float = 0.8
    """The part of a limit from which the metric near_limit counts."""
    shadow_mode: bool = False
    """No limit refuses a request."""
    quota_mode: bool = False
    """Every limit is a quota."""
    spare_others: bool = False
    """Whether `Take.spare` is set."""
    bounds: Bounds = DEFAULT_BOUNDS
    """What a request may hold at most."""


def make_plan(
    request: LimitRequest, limits: CompiledLimits, stats: Stats, modes: Modes, budgets: TokenBudgets
) -> LimitPlan:
    """The rules for `request` in `limits`, their buckets and their counters.

    Learns from the request which descriptors are token `budgets`.

    Raises RequestError for what cannot be asked and UnconfiguredError where nothing is configured.
    """
    _check(request, limits, modes.bounds)
    domain, descriptors, request_hits = request
    root = limits.domains.get(domain)
    if root is None:
        unmatched = [(stats.unmatched.domain(domain), None)]
        none = [UNMATCHED] * len(descriptors)
        return LimitPlan(request, limits, none, unknown_domain=True, unmatched=unmatched)
    secrets = limits.options.secrets
    budgets.learn(domain, descriptors)
    matches = [_find(limits, domain, root, descriptor) for descriptor in descriptors]
    replaced: set[str] = set()
    for found in matches:
        if found is not None and found.rule.replaces:
            replaced |= found.rule.replaces
    statuses: list[DescriptorStatus] = []
    charges: list[Charge] = []
    takes: list[Take] = []
    unlimited: list[tuple[Counts, int]] = []
    for descriptor, found in zip(descriptors, matches, strict=True):
        if found is None:
            statuses.append(UNMATCHED)
            continue
        rule, counted = found
        bucket = rule.bucket
        hits = _hits(descriptor, request_hits, rule.cost)
        if bucket is None:
            unlimited.append((_counts(stats, domain, root, rule, descriptor, secrets), hits))
            statuses.append(DescriptorStatus(False, rule, UNLIMITED, 0, 0))
            continue
        if rule.name not in replaced:
            counts = _counts(stats, domain, root, rule, descriptor, secrets)
            spare = modes.spare_others
            if rule.charging is not None and budgets.is_charge(domain, descriptor):
                bucket, spare = rule.charging, False
            elif isinstance(bucket, Slots):
                # The value of the last entry is the id of the request; a request takes one slot.
                key, request_id = counted[-1]
                bucket, counted = bucket.held_by(holder_of(request_id)), [*counted[:-1], (key, "")]
                hits = (hits > 0) - (hits < 0)
            near = near_limit(bucket.size, modes.near_limit_ratio)
            charges.append(Charge(len(statuses), rule, hits, counts, near, bucket.size))
            key = bucket_key(domain, bucket, counted, modes.bounds.max_key_length)
            takes.append(Take(key, bucket, hits, _mode(rule, modes), spare))
        statuses.append(UNMATCHED)
    if _has_endless_quota(charges, len(statuses) - len(charges) - len(unlimited), modes):
        takes = [take._replace(mode=Mode.SHADOW) if take.mode is Mode.QUOTA else take for take in takes]
    without_rule = tuple(
        [
            (stats.unmatched.descriptor(domain, descriptor), descriptor)
            for descriptor, found in zip(descriptors, matches, strict=True)
            if found is None
        ]
    )
    has_metadata = any(found is not None and found.rule.metadata for found in matches)
    return LimitPlan(
        request,
        limits,
        statuses,
        charges,
        takes,
        unlimited,
        unmatched=without_rule,
        odd=oddities(request, takes),
        has_metadata=has_metadata,
        is_noted=any(charge.rule.ban or isinstance(charge.rule.bucket, Slots) for charge in charges),
    )


def near_limit(size: int, ratio: float) -> int:
    """Hits in use from which a limit of `size` is near. Slightly above: 0.8 times 5 must not floor to 3."""
    return int(size * ratio + 1e-6)


def _mode(rule: LimitRule, modes: Modes) -> Mode:
    if modes.shadow_mode or rule.shadow_mode:
        return Mode.SHADOW
    return Mode.QUOTA if modes.quota_mode or rule.quota_mode else Mode.ENFORCE


def _has_endless_quota(charges: Sequence[Charge], unmatched: int, modes: Modes) -> bool:
    """Return whether a quota is never over, so that not all can be: one in shadow mode, or without a rule."""
    if modes.quota_mode and unmatched:
        return True
    return any(charge.rule.shadow_mode and (modes.quota_mode or charge.rule.quota_mode) for charge in charges)


def _counts(
    stats: Stats, domain: str, root: Node, rule: LimitRule, descriptor: Descriptor, secrets: SecretValues
) -> Counts:
    if not rule.metric_has_values:
        return stats.of_rule(rule.path)
    if descriptor.override is not None:
        return stats.of_request(rule.path)
    path = metric_path(
        root, rule, domain, descriptor.entries, marks_empty=stats.envoyproxy_names, secrets=secrets
    )
    return stats.of_request(path)


def _check(request: LimitRequest, limits: CompiledLimits, bounds: Bounds) -> None:
    if not request.domain:
        raise RequestError(BadInput.NO_DOMAIN, "rate limit domain must not be empty")
    if not request.descriptors:
        raise RequestError(BadInput.NO_DESCRIPTORS, "rate limit descriptor list must not be empty")
    most = bounds.max_descriptors
    if len(request.descriptors) > most:
        text = f"rate limit descriptor list must not be longer than {most}"
        raise RequestError(BadInput.TOO_MANY_DESCRIPTORS, text)
    most = bounds.max_entries
    for descriptor in request.descriptors:
        if len(descriptor.entries) > most:
            text = f"rate limit descriptor must not have more than {most} entries"
            raise RequestError(BadInput.TOO_MANY_ENTRIES, text)
    if not limits.domains:
        raise UnconfiguredError("no rate limit configuration loaded")


def _find(limits: CompiledLimits, domain: str, root: Node, descriptor: Descriptor) -> Match | None:
    if descriptor.override is None:
        return match(root, descriptor.entries)
    entries = [(key, value.strip(BLANKS)) for key, value in descriptor.entries]
    return Match(_override_rule(limits, domain, entries, descriptor.override), entries)


def _override_rule(
    limits: CompiledLimits, domain: str, entries: Sequence[Entry], override: Override
) -> LimitRule:
    """The limit that a request brings along, as a rule: never in shadow or quota mode, without a name."""
    # UNKNOWN makes envoyproxy/ratelimit panic; a unit that is not known here would be a guess.
    if override.unit not in UNIT_SECONDS:
        text = f"rate limit override has no unit that is known here: {override.unit}"
        raise RequestError(BadInput.BAD_OVERRIDE, text)
    unit = Unit(override.unit)
    most = MAX_WINDOW_US // (UNIT_SECONDS[unit] * SECOND_US)
    if not 1 <= override.unit_multiplier <= most:
        text = f"rate limit override: unit_multiplier must be 1 to {most}, not {override.unit_multiplier}"
        raise RequestError(BadInput.BAD_OVERRIDE, text)
    window_seconds = UNIT_SECONDS[unit] * override.unit_multiplier
    requests, options, secrets = override.requests_per_unit, limits.options, limits.options.secrets
    bucket = build_bucket(requests, window_seconds, options.algorithm)
    return LimitRule(
        (domain, *(shown(f"{key}_{secrets.shown(key, value)}" if value else key) for key, value in entries)),
        bucket,
        requests,
        unit,
        override.unit_multiplier,
        charging=replace(bucket, charge_rejected=True),
        metric_has_values=True,
        on_failure=options.on_failure,
        lease=options.lease and not goes_into_debt(bucket),
        source="override",
    )


def _hits(descriptor: Descriptor, request_hits: int, cost: int) -> int:
    """The descriptor's own, 0 too, else the request's, at least 1 (GetHitsAddends); negative gives back."""
    hits = max(1, request_hits) if descriptor.hits is None else descriptor.hits
    hits = min(hits * cost, MAX_HITS)
    return -hits if descriptor.refund else hits
