"""Explains the limits of one request: which apply, why, and what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.buckets import Taken
from ratelimit.decision import LimitPlan
from ratelimit.explain import explain_match
from ratelimit.listing import limit_text
from ratelimit.match import Entry
from ratelimit.plan import Modes, make_plan
from ratelimit.request import Descriptor, LimitRequest
from ratelimit.rules import CompiledLimits, Node
from ratelimit.stats import Stats
from ratelimit.stores.store import Store
from ratelimit.token_budgets import TokenBudgets


@dataclass(frozen=True, slots=True)
class ExplainedDescriptor:
    """A descriptor, the rule that it falls under, and what is left of the limit."""

    descriptor: str
    rule: str | None
    source: str | None
    steps: list[str]
    """How the rule was found, one entry each."""
    limit: str | None
    reason: str
    """Why no limit applies; empty if one does."""
    key: str | None
    """The key of the bucket in the store."""
    remaining: int | None
    """Hits that would pass now; None if that is unknown."""
    reset_seconds: int | None
    banned_seconds: int | None = None
    """For how long the key is still banned, so that nothing passes; None if it is not, or that is unknown."""


def entries_of(text: str) -> tuple[Entry, ...]:
    """Return the entries of a descriptor such as `route=login,subject=alice`. Raises ValueError."""
    entries: list[Entry] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ValueError(f"expected KEY=VALUE[,KEY=VALUE...], found {text!r}")
        entries.append((key, value))
    return tuple(entries)


def plan_of(limits: CompiledLimits, domain: str, descriptors: Sequence[str], modes: Modes) -> LimitPlan:
    """Return the plan for a request with these descriptors, which nothing counts.

    Raises ValueError for a domain without limits and for text that is not a descriptor, and RequestError.
    """
    wanted = [Descriptor(entries_of(text)) for text in descriptors]
    if domain not in limits.domains:
        known = ", ".join(sorted(limits.domains))
        raise ValueError(f"unknown domain {domain!r}; known are {known}")
    return make_plan(LimitRequest(domain, wanted), limits, Stats(), modes, TokenBudgets())


async def ask_left(store: Store, plan: LimitPlan) -> Sequence[Taken]:
    """Return what is left of each bucket of `plan`; nothing is charged. Raises StoreError."""
    answer = store.take([take._replace(hits=0) for take in plan.takes])
    return answer if isinstance(answer, list) else await answer


def explained(
    plan: LimitPlan, descriptors: Sequence[str], prefix: str, left: Sequence[Taken] | None
) -> list[ExplainedDescriptor]:
    """Return the explanation of each of the `descriptors` of `plan`.

    `prefix` begins the key of each bucket in the store; `left` is what is left, if it is known.
    """
    root = plan.limits.domains[plan.request.domain]
    return [_explained(root, plan, position, text, prefix, left) for position, text in enumerate(descriptors)]


def _explained(
    root: Node, plan: LimitPlan, position: int, text: str, prefix: str, left: Sequence[Taken] | None
) -> ExplainedDescriptor:
    match = explain_match(root, plan.request.descriptors[position].entries, plan.limits.options.secrets)
    steps = [f"{step.composite}: {step.how}, counts as {step.counted!r}" for step in match.steps]
    rule = plan.statuses[position].rule
    key, taken = None, None
    for index, (charge, take) in enumerate(zip(plan.charges, plan.takes, strict=True)):
        if charge.position == position:
            rule, key = charge.rule, prefix + take.key
            taken = None if left is None else left[index]
    return ExplainedDescriptor(
        text,
        None if rule is None else rule.key,
        None if rule is None else rule.source,
        steps,
        None if rule is None else limit_text(rule),
        "" if rule is not None else match.missing or "another rule of this request replaces its rule",
        key,
        None if taken is None else taken.remaining,
        None if taken is None else taken.reset_seconds,
    )
