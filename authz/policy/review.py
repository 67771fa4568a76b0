"""Finds rules that cannot mean what they say: they are legal, so these are warnings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from authz.policy.index import Index
from authz.policy.model import ONLY_FOR_ALLOW, RuleConfig
from authz.policy.pattern import EVERY_HOST, EVERY_PATH, HostPattern, Template
from authz.policy.rule import Rule
from configfile import Breathe, no_breaks

_Callers = tuple[tuple[str, ...], ...]
_SOMETHING: Final = "\0"
"""Stands for any segment, host label or method: no rule can name it, so only wildcards cover it."""


def review(
    rules: Sequence[tuple[RuleConfig, Rule]], breathe: Breathe = no_breaks
) -> Iterator[tuple[Rule, str]]:
    """What is suspicious, with the rule it is about.

    An allow rule under a rule that denies anyone never decides; one under a rule that allows anyone
    asks for a credential in vain.
    """
    denials, openings, same = Index(), Index(), dict[_Callers, Index]()
    alone = [_callers_alone(config, rule) for config, rule in rules]
    alike = Counter(alone)
    del alike[()]
    deepest = 0
    for (config, rule), callers in zip(rules, alone, strict=True):
        breathe()
        if rule.open and not rule.requests and not rule.shadow:
            index = openings if rule.allows else denials
            index.add(rule, config.hosts, config.paths, config.methods)
            deepest = max(deepest, *(len(path.segments) for path in config.paths))
        if alike[callers] > 1:
            same.setdefault(callers, Index()).add(rule, config.hosts, config.paths, config.methods)
            deepest = max(deepest, *(len(path.segments) for path in config.paths))
    for index in (denials, openings, *same.values()):
        index.compile(breathe)
    for (config, rule), callers in zip(rules, alone, strict=True):
        breathe()
        if not rule.allows:
            continue
        if _allows_all(config, rule):
            yield rule, "allows anyone anything, on every host and path"
        denial = _cover(denials, config, deepest)
        if denial is not None:
            yield rule, f"never decides: {denial.name!r} ({denial.source}) denies anyone all that it covers"
        opening = None if rule.open and not rule.requests else _cover(openings, config, deepest)
        if opening is not None:
            yield rule, f"asks in vain: {opening.name!r} ({opening.source}) allows anyone all that it covers"
        broader = _cover(same[callers], config, deepest, apart_from=rule) if callers in same else None
        if broader is not None:
            yield rule, f"adds nothing: {broader.name!r} ({broader.source}) allows these callers all of it"
    # Left to themselves they would go at once, and hold up the loop that this runs beside.
    for index in (denials, openings, *same.values()):
        index.take_apart(breathe)


def _allows_all(config: RuleConfig, rule: Rule) -> bool:
    everywhere = EVERY_HOST in config.hosts and EVERY_PATH.segments in {
        path.segments for path in config.paths if path.rest
    }
    return everywhere and rule.open and not rule.requests and not rule.shadow


def _callers_alone(config: RuleConfig, rule: Rule) -> _Callers:
    """Whom the rule allows, where it asks for nothing else and adds nothing to the answer; else empty."""
    plain = rule.allows and not (rule.open or rule.shadow or rule.requests or rule.demands)
    if not plain or config.model_fields_set & ONLY_FOR_ALLOW:
        return ()
    # Two conditions with one text ask the same.
    return tuple(tuple(condition.text for condition in conditions) for conditions in rule.callers)


def _cover(index: Index, config: RuleConfig, deepest: int, apart_from: Rule | None = None) -> Rule | None:
    """A rule of the index, if its rules together cover everything that this one does."""
    cover = None
    for host in config.hosts:
        for path in config.paths:
            for segments in _examples(path, deepest):
                for method in config.methods or (_SOMETHING,):
                    rules = index.find(_example_host(host), method, segments).rules
                    cover = next((rule for rule in rules if rule is not apart_from), None)
                    if cover is None:
                        return None
    return cover


def _example_host(host: HostPattern) -> str:
    if not host.wildcard:
        return host.name
    return f"{_SOMETHING}.{host.name}" if host.name else _SOMETHING


def _examples(path: Template, deepest: int) -> Iterator[list[str]]:
    """Paths of which every one is covered just when the whole template is."""
    segments = [_SOMETHING if segment is None else segment for segment in path.segments]
    if segments or not path.rest:
        yield segments
    if path.rest:
        yield [*segments, ""]
        for more in range(1, max(1, deepest - len(segments)) + 2):
            yield segments + [_SOMETHING] * more
