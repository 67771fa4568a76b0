"""Finds the rules that cover a request, at a cost that does not grow with the number of rules.

Host patterns lead to trees of path segments; where a template ends, a leaf holds its rules by
method. A look-up walks the tree along the segments of the path: a plain segment is one look-up in a
dictionary, and a variable (`{id}`) or a rest (`{rest=**}`) adds a second branch only where both exist.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from authz.policy.rule import Outcome, Rule, Verdict
from authz.policy.types.pattern import HostPattern, Template
from authz.request.identity import ANONYMOUS, Identity
from authz.request.request import Request
from common.configfile import Breathe, no_breaks

MAX_MERGED: Final = 8_192
"""The most merged rule sets cached. Most policies need few; the bound holds for those that need many."""

MAX_SUBSETS: Final = 256
"""The most subsets cached for one rule set: all of them, for up to eight conditional rules."""

NO_RULE: Final = Verdict(Outcome.DENY, "no_rule", 403)
"""The default verdict: no rule allows the request."""

MISSING: Final = Verdict(Outcome.DENY, "credentials_missing", 401)
INSUFFICIENT: Final = Verdict(Outcome.DENY, "credentials_insufficient", 403)
UNMET: Final = Verdict(Outcome.DENY, "conditions_unmet", 403)
"""The request does not meet a rule's conditions on the request; no credential would help."""


_ORDER: Final = attrgetter("order")


class RuleSet:
    """The rules that cover one combination of host, path and method: deny before allow, then in order."""

    __slots__ = (
        "_by_held",
        "_kept",
        "allows",
        "conditional",
        "denies",
        "judges_identity",
        "missed",
        "optional",
        "settled",
        "shadow",
    )

    def __init__(self, rules: Iterable[Rule], missed: Rule | None = None) -> None:
        ordered = sorted(set(rules), key=_ORDER)
        self.missed = missed
        """A rule that would have allowed the request, had its conditions on the request held."""
        self._kept: dict[Verdict, Verdict] | None = None
        self._by_held: dict[int, RuleSet] | None = None
        self.shadow: RuleSet | None = None
        """The same rule set with its shadow rules enforced; None if it has none."""
        enforced = ordered
        if any(rule.shadow for rule in ordered):
            enforced = [rule for rule in ordered if not rule.shadow]
            self.shadow = RuleSet((), missed)
            self.shadow._arrange(ordered)  # noqa: SLF001 - another rule set
        self._arrange(enforced)
        self.conditional = tuple(rule for rule in ordered if rule.requests)
        """The rules with conditions on the request, in addition to host, method and path."""

    def _arrange(self, rules: Sequence[Rule]) -> None:
        self.denies = tuple(rule for rule in rules if not rule.allows)
        self.allows = tuple(rule for rule in rules if rule.allows)
        self.optional = any(rule.open and rule.identifies for rule in self.allows)
        """Whether a rejected credential is ignored: some rule identifies callers without requiring it."""
        self.judges_identity = all(rule.judges_identity for rule in rules)
        """Whether `judge` depends on the identity alone."""
        self.settled = self._settle()
        """The verdict, if it is the same for every caller; None if the caller must be authenticated."""

    def _settle(self) -> Verdict | None:
        for rule in self.denies:
            if rule.open:
                return rule.verdict
        if not self.allows:
            return self._otherwise()
        if self.denies or self.optional:
            return None
        return next((rule.verdict for rule in self.allows if rule.open), None)

    def for_request(self, request: Request, now: float) -> "RuleSet":
        """Return the rules whose conditions on the request hold; `now` is in unix seconds."""
        held = 0
        for place, rule in enumerate(self.conditional):
            if rule.covers(request, now):
                held |= 1 << place
        if self._by_held is None:
            self._by_held = {}
        rule_set = self._by_held.get(held)
        if rule_set is None:
            rule_set = self._without(held)
            if len(self._by_held) < MAX_SUBSETS:
                self._by_held[held] = rule_set
        return rule_set

    def _without(self, held: int) -> "RuleSet":
        gone = {rule for place, rule in enumerate(self.conditional) if not held >> place & 1}
        missed = next((rule for rule in self.allows if rule in gone), None)
        rule_set = RuleSet((rule for rule in self.rules if rule not in gone), missed)
        rule_set.conditional = ()
        return rule_set

    def judge(self, identity: Identity, request: Request, now: float) -> Verdict:
        """Return the verdict of the rules on this caller; `now` is in unix seconds."""
        if self.settled is not None:
            return self.settled
        for rule in self.denies:
            if rule.admits(identity, request, now):
                return rule.verdict
        for rule in self.allows:
            if rule.admits(identity, request, now):
                return rule.verdict
        if not self.allows:
            return self._otherwise()
        if identity is ANONYMOUS:
            return self._keep(MISSING, self.allows[0])
        return self._keep(INSUFFICIENT, self.allows[0])

    def refused(self, refusal: Verdict) -> Verdict:
        """Return the refusal of a credential, with the name of the rule that requires one."""
        asking = next((rule for rule in (*self.allows, *self.denies) if not rule.open), None)
        if asking is None:
            return refusal
        return self._keep(refusal, asking)

    def _otherwise(self) -> Verdict:
        """Return the verdict if no remaining rule could allow the request."""
        if self.missed is None:
            return NO_RULE
        return self._keep(UNMET, self.missed)

    def _keep(self, verdict: Verdict, rule: Rule) -> Verdict:
        """Return the verdict with the rule's name: always the same object, so responses can be cached."""
        if self._kept is None:
            self._kept = {}
        kept = self._kept.get(verdict)
        if kept is None:
            kept = replace(verdict, rule=rule.verdict.rule, scope=rule.verdict.scope)
            self._kept[verdict] = kept
        return kept

    @property
    def rules(self) -> Iterator[Rule]:
        """Every rule of the set, shadow rules included."""
        rule_set = self.shadow or self
        yield from rule_set.denies
        yield from rule_set.allows


NO_RULES: Final = RuleSet(())


class _Leaf:
    """The end of one or more templates: holds their rules by method."""

    __slots__ = ("by_method", "every_method", "rules")

    def __init__(self) -> None:
        self.rules: list[tuple[Rule, frozenset[str] | None]] = []
        self.by_method: dict[str, RuleSet] = {}
        self.every_method: RuleSet | None = None

    def compile(self, rule_sets: dict[tuple[Rule, ...], RuleSet]) -> None:
        """Build the rule sets. `rule_sets` caches them by rules, because most leaves of a rule share one."""
        always = tuple(rule for rule, methods in self.rules if methods is None)
        self.every_method = _shared(rule_sets, always) if always else None
        named = {method for _, methods in self.rules if methods for method in methods}
        for method in named:
            rules = tuple(rule for rule, methods in self.rules if methods is None or method in methods)
            self.by_method[method] = _shared(rule_sets, rules)

    def append_to(self, found: list[RuleSet], method: str) -> None:
        """Append the rule set of `method` to `found`, if there is one."""
        rule_set = self.by_method.get(method, self.every_method)
        if rule_set is not None:
            found.append(rule_set)


def _shared(rule_sets: dict[tuple[Rule, ...], RuleSet], rules: tuple[Rule, ...]) -> RuleSet:
    rule_set = rule_sets.get(rules)
    if rule_set is None:
        rule_set = rule_sets[rules] = RuleSet(rules)
    return rule_set


class _Node:
    """A node in the tree of path segments."""

    __slots__ = ("any", "end", "plain", "rest")

    def __init__(self) -> None:
        self.plain: dict[str, _Node] = {}
        self.any: _Node | None = None
        """The child for any one segment that is not empty."""
        self.end: _Leaf | None = None
        """The rules of templates that end here."""
        self.rest: _Leaf | None = None
        """The rules of templates that end here with a rest (`**`)."""

    def leaf(self, template: Template) -> _Leaf:
        """Return the leaf at the end of `template` below this root; create it if it is missing."""
        node = self
        for segment in template.segments:
            if segment is None:
                if node.any is None:
                    node.any = _Node()
                node = node.any
            else:
                node = node.plain.setdefault(segment, _Node())
        if template.rest:
            node.rest = leaf = node.rest or _Leaf()
        else:
            node.end = leaf = node.end or _Leaf()
        return leaf


class Index:
    """Finds rules of a policy by host, path and method. Immutable after `compile`."""

    def __init__(self) -> None:
        self._exact: dict[str, _Node] = {}
        self._below: dict[str, _Node] = {}
        """Trees by the name after `*.`; the empty name covers every host."""
        self._leaves: dict[int, _Leaf] = {}
        self._by_host: dict[str, tuple[_Node, ...]] = {}
        self._merged: dict[tuple[_RulesOf, tuple[RuleSet, ...]], RuleSet] = {}
        self._of_rules: dict[tuple[Rule, ...], RuleSet] = {}

    def add(
        self,
        rule: Rule,
        hosts: Iterable[HostPattern],
        paths: Iterable[Template],
        methods: Iterable[str] | None,
    ) -> None:
        """Add `rule` for requests to these hosts, paths and methods (None: all methods)."""
        named = None if methods is None else frozenset(methods)
        for host in hosts:
            trees = self._below if host.wildcard else self._exact
            tree = trees.setdefault(host.name, _Node())
            for path in paths:
                leaf = tree.leaf(path)
                leaf.rules.append((rule, named))
                self._leaves[id(leaf)] = leaf

    def compile(self, yield_gil: Breathe = no_breaks) -> "Index":
        """Build the rule sets, and return the index itself, which is then ready for `find`."""
        rule_sets: dict[tuple[Rule, ...], RuleSet] = {}
        for leaf in self._leaves.values():
            yield_gil()
            leaf.compile(rule_sets)
        self._by_host = {host: self._trees_of(host) for host in self._exact}
        return self

    def parts(self) -> Iterator[object]:
        """Yield the objects that the index owns, owners first (`common.background.release`)."""
        yield from [*self._merged.values(), *self._of_rules.values()]
        nodes = [*self._exact.values(), *self._below.values()]
        while nodes:
            node = nodes.pop()
            yield node
            nodes += node.plain.values()
            if node.any is not None:
                nodes.append(node.any)
        yield from self._leaves.values()

    def find(self, host: str, method: str, segments: Sequence[str]) -> RuleSet:
        """Return the rules that cover the request; an empty rule set if there are none."""
        trees = self._by_host.get(host)
        if trees is None:
            trees = self._trees_of(host)
        found: list[RuleSet] = []
        for tree in trees:
            _walk(tree, method, segments, found)
        if len(found) == 1:
            return found[0]
        return self._merge(tuple(found), _all_rules) if found else NO_RULES

    def with_denials(
        self, rule_set: RuleSet, host: str, method: str, readings: Iterable[Sequence[str]]
    ) -> RuleSet:
        """Return `rule_set` plus the deny rules that cover the request in other readings of its path."""
        others = tuple(
            found
            for found in (self.find(host, method, reading) for reading in readings)
            if found is not rule_set and found is not NO_RULES
        )
        return self._merge((rule_set, *others), _denying) if others else rule_set

    def rule_set_of(self, rules: Iterable[Rule]) -> RuleSet:
        """Return the rule set of these rules, always the same object, so that cached responses are found."""
        key = tuple(dict.fromkeys(rules))
        rule_set = self._of_rules.get(key)
        if rule_set is None:
            rule_set = RuleSet(key)
            if len(self._of_rules) < MAX_MERGED:
                self._of_rules[key] = rule_set
        return rule_set

    def _trees_of(self, host: str) -> tuple[_Node, ...]:
        """Return the trees of every pattern that covers `host`, at one look-up per label of the name."""
        trees = [self._exact.get(host)]
        if self._below:
            _, dot, parent = host.partition(".")
            while dot:
                trees.append(self._below.get(parent))
                _, dot, parent = parent.partition(".")
            trees.append(self._below.get(""))
        return tuple(tree for tree in trees if tree is not None)

    def _merge(self, rule_sets: tuple[RuleSet, ...], rules_of: "_RulesOf") -> RuleSet:
        key = (rules_of, rule_sets)
        merged = self._merged.get(key)
        if merged is None:
            merged = RuleSet(rules_of(rule_sets))
            if len(self._merged) < MAX_MERGED:
                self._merged[key] = merged
        return merged


_RulesOf = Callable[[tuple[RuleSet, ...]], Iterator[Rule]]


def _all_rules(rule_sets: tuple[RuleSet, ...]) -> Iterator[Rule]:
    return (rule for rule_set in rule_sets for rule in rule_set.rules)


def _denying(rule_sets: tuple[RuleSet, ...]) -> Iterator[Rule]:
    """Yield the rules of the first rule set, and the deny rules of the others."""
    yield from rule_sets[0].rules
    yield from (rule for rule in _all_rules(rule_sets[1:]) if not rule.allows)


def _walk(node: _Node, method: str, segments: Sequence[str], found: list[RuleSet], at: int = 0) -> None:
    """Append to `found` the rule set of every template below `node` that covers the segments from `at` on.

    It calls itself only where a segment has two branches, so never deeper than the longest template.
    """
    for place in range(at, len(segments)):
        if node.rest is not None:
            node.rest.append_to(found, method)
        segment = segments[place]
        child = node.plain.get(segment)
        other = node.any if segment else None
        if child is None:
            if other is None:
                return
            node = other
        else:
            if other is not None:
                _walk(other, method, segments, found, place + 1)
            node = child
    if node.end is not None:
        node.end.append_to(found, method)
    if node.rest is not None:
        node.rest.append_to(found, method)
