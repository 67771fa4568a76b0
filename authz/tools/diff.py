"""Compares two policies rule by rule, including everything that a rule inherits.

Differences are found in the contents, which have every key of the models, and described in words if a rule
has words for the key. So a key that is unknown here is shown as it is written, never omitted.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from authz.policy.compile.compile import Policy
from authz.policy.compile.contents import Content, Contents
from authz.policy.conditions.condition import Condition
from authz.policy.model import ConditionConfig
from authz.policy.rule import Rule

Loaded = tuple[Policy, Contents]
"""A policy and the contents of its files (`authz.policy.compile.load.load_with_contents`)."""

_WORDS_OF: Final[Mapping[str, Sequence[str]]] = {
    "allow": ("effect", "who"),
    "deny": ("effect", "who"),
    "methods": ("methods",),
    **dict.fromkeys(ConditionConfig.model_fields, ("who", "conditions")),
}
"""The descriptions that a key affects, for keys that have one."""
_NAMES: Final = ("issuer", "id")
"""Keys that identify the entries of a list."""
_HASH: Final = re.compile(r"[0-9a-f]{32,}")
_SHOWN_OF_HASH: Final = 8
"""Characters shown of a hash: enough to distinguish hashes, too few to test keys against."""
_PLAIN: Final = re.compile(r"[^\s,\[\]\"']+")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; a missing value is an empty text."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that differs between the policies."""

    old: Rule
    new: Rule
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """The differences between two policies. Rules are matched by name."""

    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    changed: tuple[RuleChange, ...]
    whole: tuple[Change, ...] = ()
    """Differences in settings of the whole policy."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.whole)


def diff(old: Loaded, new: Loaded) -> PolicyDiff:
    """Return the rules that were added, removed or changed, and the changed settings of the whole policy."""
    (old_policy, old_contents), (new_policy, new_contents) = old, new
    before = {rule.name: rule for rule in old_policy.rules}
    after = {rule.name: rule for rule in new_policy.rules}
    both = [(before[name], rule) for name, rule in after.items() if name in before]
    moved = _moved(both)
    changed = []
    for one, rule in both:
        name = rule.name
        changes = (
            *_rule_changes(one, rule, old_contents.rules[name], new_contents.rules[name]),
            *((moved[name],) if name in moved else ()),
        )
        if changes:
            changed.append(RuleChange(one, rule, changes))
    return PolicyDiff(
        added=tuple(rule for name, rule in after.items() if name not in before),
        removed=tuple(rule for name, rule in before.items() if name not in after),
        changed=tuple(changed),
        whole=tuple(_content_changes(old_contents.whole, new_contents.whole)),
    )


def who_text(rule: Rule) -> str:
    """Describe the callers that the rule applies to."""
    if rule.open:
        return "anyone"
    descriptions = [_joined(conditions) for conditions in rule.callers]
    who = " or ".join(descriptions) if descriptions else "anyone"
    return f"{who}; {_joined(rule.demands)}" if rule.demands else who


def when_text(rule: Rule) -> str:
    """Describe the rule's conditions on the request."""
    return "; ".join(condition.text for condition in rule.requests)


def _joined(conditions: tuple[Condition, ...]) -> str:
    # "is authenticated" is implied by any further condition.
    implied = len(conditions) > 1 and conditions[0].text == "is authenticated"
    return ", ".join(condition.text for condition in (conditions[1:] if implied else conditions))


def _rule_changes(old: Rule, new: Rule, before: Content, after: Content) -> Iterator[Change]:
    keys = [key for key in dict.fromkeys((*before, *after)) if not _same(before.get(key), after.get(key))]
    old_words, new_words = _words(old), _words(new)
    described: dict[str, None] = {}
    others: list[str] = []
    for key in keys:
        words = [one for one in _WORDS_OF.get(key, ()) if old_words[one] != new_words[one]]
        described.update(dict.fromkeys(words))
        if not words:
            others.append(key)
    yield from (Change(one, old_words[one], new_words[one]) for one in old_words if one in described)
    for key in others:
        yield from _differences(key, before.get(key), after.get(key))


def _words(rule: Rule) -> dict[str, str]:
    return {
        "effect": rule.verdict.outcome.value,
        "methods": "every one" if rule.methods is None else ", ".join(rule.methods),
        "who": who_text(rule),
        "conditions": when_text(rule),
    }


def _moved(rules: Sequence[tuple[Rule, Rule]]) -> dict[str, Change]:
    """Return the rules whose position changed among those with the same effect, which decides who is named.

    The result is the smallest such set. `rules` are those in both policies, in the order of the new one.
    """
    moved: dict[str, Change] = {}
    for allows in (False, True):
        now = [(old.order, new.name) for old, new in rules if old.allows is new.allows is allows]
        stayed = _longest_rising([order for order, _ in now])
        still = {now[place][1] for place in stayed}
        if len(still) < len(now):
            was_after, is_after = _positions(sorted(now), still), _positions(now, still)
            moved |= {
                name: Change("position", was_after[name], is_after[name])
                for _, name in now
                if name not in still
            }
    return moved


def _positions(rules: Sequence[tuple[int, str]], still: Collection[str]) -> dict[str, str]:
    """Describe the position of each rule relative to the rules that did not move."""
    places = {}
    place = "first"
    for _, name in rules:
        places[name] = place
        if name in still:
            place = f"after {name}"
    return places


def _longest_rising(numbers: Sequence[int]) -> list[int]:
    """Return the indices of a longest increasing subsequence (patience sorting, O(n log n))."""
    ends: list[int] = []
    last: list[int] = []
    previous: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        ends[length:] = [number, *ends[length + 1 :]]
        last[length:] = [place, *last[length + 1 :]]
        previous.append(last[length - 1] if length else -1)
    found = []
    place = last[-1] if last else -1
    while place >= 0:
        found.append(place)
        place = previous[place]
    return found


def _content_changes(old: Content, new: Content) -> Iterator[Change]:
    for key in dict.fromkeys((*old, *new)):
        yield from _differences(key, old.get(key), new.get(key))


def _differences(where: str, old: Any, new: Any) -> Iterator[Change]:
    """Yield every difference between two values, as deep as both are mappings or named lists."""
    if _same(old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(f"{where}.{key}", old.get(key), new.get(key))
        return
    before, after = _by_name(old), _by_name(new)
    if before is not None and after is not None and _in_one_order(before, after):
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(f"{where}[{name}]", before.get(name), after.get(name))
        return
    was, now = _text(old), _text(new)
    yield Change(where, was, now if now != was else f"{now} (different)")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON; in Python, 1 equals True."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _by_name(value: Any) -> dict[str, Any] | None:
    """Return the entries of a list of blocks by the key that identifies them; None for other values."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return None
    key = next((key for key in _NAMES if all(key in one for one in value)), None)
    named = {} if key is None else {str(one[key]): one for one in value}
    return named if len(named) == len(value) else None


def _in_one_order(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return [name for name in one if name in other] == [name for name in other if name in one]


def _text(value: Any) -> str:
    """Return the value as in a policy, without absent keys and with shortened hashes."""
    if value is None:
        return ""
    shown = _shown(value)
    if isinstance(shown, list) and all(isinstance(one, str) and _PLAIN.fullmatch(one) for one in shown):
        return f"[{', '.join(shown)}]"
    return shown if isinstance(shown, str) else orjson.dumps(shown).decode()


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items() if one is not None and one != {}}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, str):
        return _HASH.sub(lambda found: f"{found[0][:_SHOWN_OF_HASH]}...", value)
    return value
