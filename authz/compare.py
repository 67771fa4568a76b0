"""What differs between two policies, rule by rule: with everything that a rule inherits."""

from collections.abc import Iterable
from dataclasses import dataclass

from authz.policy.compile import Policy
from authz.policy.condition import Condition
from authz.policy.rule import Extras, Rule


@dataclass(frozen=True, slots=True)
class Change:
    """One thing about a rule that is another."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that is in both policies, but says something else."""

    old: Rule
    new: Rule
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies compared. Rules are the same when they have the same name."""

    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    changed: tuple[RuleChange, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def compare(old: Policy, new: Policy) -> Comparison:
    """What is in `new` and not in `old`, the other way round, and what says something else."""
    before = {rule.name: rule for rule in old.rules}
    after = {rule.name: rule for rule in new.rules}
    changed = []
    for name, rule in after.items():
        if name in before:
            changes = _changes(before[name], rule)
            if changes:
                changed.append(RuleChange(before[name], rule, changes))
    return Comparison(
        added=tuple(rule for name, rule in after.items() if name not in before),
        removed=tuple(rule for name, rule in before.items() if name not in after),
        changed=tuple(changed),
    )


def who_text(rule: Rule) -> str:
    """Of whom the rule speaks, in words."""
    if rule.open:
        return "anyone"
    descriptions = [_joined(conditions) for conditions in rule.callers]
    who = " or ".join(descriptions) if descriptions else "anyone"
    return f"{who}; {_joined(rule.demands)}" if rule.demands else who


def when_text(rule: Rule) -> str:
    """Its conditions about the request, in words."""
    return "; ".join(condition.text for condition in rule.requests)


def _joined(conditions: tuple[Condition, ...]) -> str:
    # That somebody is authenticated goes without saying once more is asked.
    said = conditions[1:] if len(conditions) > 1 and conditions[0].text == "is authenticated" else conditions
    return ", ".join(condition.text for condition in said)


def _changes(old: Rule, new: Rule) -> tuple[Change, ...]:
    before, after = _facets(old), _facets(new)
    return tuple(Change(what, before[what], after[what]) for what in before if before[what] != after[what])


def _facets(rule: Rule) -> dict[str, str]:
    verdict = rule.verdict
    return {
        "effect": verdict.outcome.value,
        "hosts": _listed(rule.hosts),
        "methods": "every one" if rule.methods is None else _listed(rule.methods),
        "paths": _listed(rule.templates),
        "who": who_text(rule),
        "conditions": when_text(rule),
        "mode": "shadow" if rule.shadow else "enforce",
        "accepted in paths": repr(rule.accepts),
        "answer": f"{verdict.status} {verdict.detail}".strip(),
        **_extras(verdict.extras),
        "owner": rule.owner,
        "ticket": rule.ticket,
    }


def _extras(extras: Extras) -> dict[str, str]:
    return {
        "identity headers": _pairs(extras.identity_headers),
        "response headers": _pairs(extras.response_headers),
        "query parameters set": _pairs(extras.query_set),
        "query parameters removed": _listed(extras.query_remove),
        "cookies stripped": _listed(sorted(extras.strip_cookies)),
        "cors": "" if extras.cors is None else _listed(sorted(extras.cors.origins)),
    }


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _pairs(pairs: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sorted(pairs, key=lambda pair: pair[0]))
