"""What differs between two policies, rule by rule: with everything that a rule inherits.

Whether something differs is told by the contents, which have every key of the models; how it is told, by
words where a rule has some. So a key that nobody thought of here is shown as it is written, never left out.
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
"""A policy, and what its files say (`authz.policy.compile.load.load_with_contents`)."""

_TOLD_BY: Final[Mapping[str, Sequence[str]]] = {
    "allow": ("effect", "who"),
    "deny": ("effect", "who"),
    "methods": ("methods",),
    **dict.fromkeys(ConditionConfig.model_fields, ("who", "conditions")),
}
"""The words that tell of a key, where there are some."""
_NAMES: Final = ("issuer", "id")
"""Keys by which the entries of a list are told apart."""
_HASH: Final = re.compile(r"[0-9a-f]{32,}")
_SHOWN_OF_HASH: Final = 8
"""Characters: enough to tell it from another, too few to try keys against."""
_PLAIN: Final = re.compile(r"[^\s,\[\]\"']+")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is another; nothing at all is an empty text."""

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
    whole: tuple[Change, ...] = ()
    """What is said of the whole policy."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.whole)


def compare(old: Loaded, new: Loaded) -> Comparison:
    """What is in `new` and not in `old`, the other way round, and what says something else."""
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
    return Comparison(
        added=tuple(rule for name, rule in after.items() if name not in before),
        removed=tuple(rule for name, rule in before.items() if name not in after),
        changed=tuple(changed),
        whole=tuple(_content_changes(old_contents.whole, new_contents.whole)),
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


def _rule_changes(old: Rule, new: Rule, before: Content, after: Content) -> Iterator[Change]:
    keys = [key for key in dict.fromkeys((*before, *after)) if not _same(before.get(key), after.get(key))]
    old_words, new_words = _words(old), _words(new)
    told: dict[str, None] = {}
    silent: list[str] = []
    for key in keys:
        words = [one for one in _TOLD_BY.get(key, ()) if old_words[one] != new_words[one]]
        told.update(dict.fromkeys(words))
        if not words:
            silent.append(key)
    yield from (Change(one, old_words[one], new_words[one]) for one in old_words if one in told)
    for key in silent:
        yield from _differences(key, before.get(key), after.get(key))


def _words(rule: Rule) -> dict[str, str]:
    return {
        "effect": rule.verdict.outcome.value,
        "methods": "every one" if rule.methods is None else ", ".join(rule.methods),
        "who": who_text(rule),
        "conditions": when_text(rule),
    }


def _moved(rules: Sequence[tuple[Rule, Rule]]) -> dict[str, Change]:
    """The rules that stand elsewhere among those with their effect: of two that would decide, the first does.

    As few as can be: the others still follow one another. `rules`: those of both policies, as in the new one.
    """
    moved: dict[str, Change] = {}
    for allows in (False, True):
        now = [(old.order, new.name) for old, new in rules if old.allows is new.allows is allows]
        stayed = _longest_rising([order for order, _ in now])
        still = {now[place][1] for place in stayed}
        if len(still) < len(now):
            was_behind, is_behind = _behind(sorted(now), still), _behind(now, still)
            moved |= {
                name: Change("place", was_behind[name], is_behind[name])
                for _, name in now
                if name not in still
            }
    return moved


def _behind(rules: Sequence[tuple[int, str]], still: Collection[str]) -> dict[str, str]:
    """Of each rule, in words, behind which of those that stay it stands."""
    places = {}
    place = "first"
    for _, name in rules:
        places[name] = place
        if name in still:
            place = f"behind {name}"
    return places


def _longest_rising(numbers: Sequence[int]) -> list[int]:
    """The places of a longest rising subsequence (patience sorting, O(n log n))."""
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
    """Every place at which two contents differ, as deep as both have it."""
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
    yield Change(where, was, now if now != was else f"{now} (another)")


def _same(one: Any, other: Any) -> bool:
    """Whether the two are the same to JSON: to Python, 1 is True."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _by_name(value: Any) -> dict[str, Any] | None:
    """The entries of a list of blocks by what tells them apart; None for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return None
    key = next((key for key in _NAMES if all(key in one for one in value)), None)
    named = {} if key is None else {str(one[key]): one for one in value}
    return named if len(named) == len(value) else None


def _in_one_order(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return [name for name in one if name in other] == [name for name in other if name in one]


def _text(value: Any) -> str:
    """The value as a policy has it, without what is absent, and with hashes cut short."""
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
