"""Finds the rules that cover a request, at a cost that does not grow with the number of rules.

Host patterns lead to trees of path segments; where a template ends, a leaf holds its rules by
method. A look-up walks the tree along the segments of the path: a plain segment is one look-up in a
dictionary, and a variable (`{id}`) or a rest (`{rest=**}`) adds a second branch only where both
stand side by side.
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
"""Combinations of leaves remembered. A policy has few; the bound holds when one has many."""

MAX_NARROWED: Final = 256
"""Combinations of conditions remembered for one cell: all of them, for up to eight conditional rules."""

NO_RULE: Final = Verdict(Outcome.DENY, "no_rule", 403)
"""Nothing allows it: the default."""

MISSING: Final = Verdict(Outcome.DENY, "credentials_missing", 401)
INSUFFICIENT: Final = Verdict(Outcome.DENY, "credentials_insufficient", 403)
UNMET: Final = Verdict(Outcome.DENY, "conditions_unmet", 403)
"""What a rule asks of the request beside host, method and path is not so; no credential would help."""


_ORDER: Final = attrgetter("order")


class RuleSet:
    """The rules that cover one combination of host, path and method: deny before allow, then in order."""

    __slots__ = (
        "_kept",
        "_narrowed",
        "allows",
        "conditional",
        "denies",
        "missed",
        "optional",
        "settled",
        "shadow",
    )

    def __init__(self, rules: Iterable[Rule], missed: Rule | None = None) -> None:
        ordered = sorted(set(rules), key=_ORDER)
        self.missed = missed
        """A rule that would have allowed, had its conditions about the request held."""
        self._kept: dict[Verdict, Verdict] | None = None
        self._narrowed: dict[int, RuleSet] | None = None
        self.shadow: RuleSet | None = None
        """The same with the shadow rules enforced, where there are some."""
        enforced = ordered
        if any(rule.shadow for rule in ordered):
            enforced = [rule for rule in ordered if not rule.shadow]
            self.shadow = RuleSet((), missed)
            self.shadow._arrange(ordered)  # noqa: SLF001 - another cell
        self._arrange(enforced)
        self.conditional = tuple(rule for rule in ordered if rule.requests)
        """The rules that speak of some requests only, beside host, method and path."""

    def _arrange(self, rules: Sequence[Rule]) -> None:
        self.denies = tuple(rule for rule in rules if not rule.allows)
        self.allows = tuple(rule for rule in rules if rule.allows)
        self.optional = any(rule.open and rule.identifies for rule in self.allows)
        """Whether a credential that is not accepted does not count: the caller is wanted, not required."""
        self.settled = self._settle()
        """The verdict, where it is the same whoever asks; None: a credential is needed."""

    def _settle(self) -> Verdict | None:
        for rule in self.denies:
            if rule.open:
                return rule.verdict
        if not self.allows:
            return self._otherwise()
        if self.denies or self.optional:
            return None
        return next((rule.verdict for rule in self.allows if rule.open), None)

    def narrow(self, request: Request, now: float) -> "RuleSet":
        """The cell of those rules whose conditions about the request hold; `now` in unix seconds."""
        held = 0
        for place, rule in enumerate(self.conditional):
            if rule.covers(request, now):
                held |= 1 << place
        if self._narrowed is None:
            self._narrowed = {}
        cell = self._narrowed.get(held)
        if cell is None:
            cell = self._without(held)
            if len(self._narrowed) < MAX_NARROWED:
                self._narrowed[held] = cell
        return cell

    def _without(self, held: int) -> "RuleSet":
        gone = {rule for place, rule in enumerate(self.conditional) if not held >> place & 1}
        missed = next((rule for rule in self.allows if rule in gone), None)
        cell = RuleSet((rule for rule in self.rules if rule not in gone), missed)
        cell.conditional = ()
        return cell

    def judge(self, identity: Identity, request: Request, now: float) -> Verdict:
        """What the rules say to this caller; `now` in unix seconds."""
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
        """The refusal of a credential, naming the rule that asked for one."""
        asking = next((rule for rule in (*self.allows, *self.denies) if not rule.open), None)
        if asking is None:
            return refusal
        return self._keep(refusal, asking)

    def _otherwise(self) -> Verdict:
        """The verdict where no rule is left that could allow."""
        if self.missed is None:
            return NO_RULE
        return self._keep(UNMET, self.missed)

    def _keep(self, verdict: Verdict, rule: Rule) -> Verdict:
        """The verdict in the name of the rule: one object each time, so that its answer can be kept."""
        if self._kept is None:
            self._kept = {}
        kept = self._kept.get(verdict)
        if kept is None:
            kept = replace(verdict, rule=rule.verdict.rule, scope=rule.verdict.scope)
            self._kept[verdict] = kept
        return kept

    @property
    def rules(self) -> Iterator[Rule]:
        """Every rule of the cell, shadow rules included."""
        cell = self.shadow or self
        yield from cell.denies
        yield from cell.allows


NO_CELL: Final = RuleSet(())


class _Leaf:
    """Where templates end: the rules by method."""

    __slots__ = ("by_method", "every_method", "rules")

    def __init__(self) -> None:
        self.rules: list[tuple[Rule, frozenset[str] | None]] = []
        self.by_method: dict[str, RuleSet] = {}
        self.every_method: RuleSet | None = None

    def compile(self, cells: dict[tuple[Rule, ...], RuleSet]) -> None:
        """`cells`: those made so far, by their rules; most leaves of a rule share one."""
        always = tuple(rule for rule, methods in self.rules if methods is None)
        self.every_method = _shared(cells, always) if always else None
        named = {method for _, methods in self.rules if methods for method in methods}
        for method in named:
            rules = tuple(rule for rule, methods in self.rules if methods is None or method in methods)
            self.by_method[method] = _shared(cells, rules)

    def cell(self, method: str) -> RuleSet | None:
        return self.by_method.get(method, self.every_method)


def _shared(cells: dict[tuple[Rule, ...], RuleSet], rules: tuple[Rule, ...]) -> RuleSet:
    cell = cells.get(rules)
    if cell is None:
        cell = cells[rules] = RuleSet(rules)
    return cell


class _Node:
    """One place in the tree of path segments."""

    __slots__ = ("any", "end", "plain", "rest")

    def __init__(self) -> None:
        self.plain: dict[str, _Node] = {}
        self.any: _Node | None = None
        """Below any one segment that is not empty."""
        self.end: _Leaf | None = None
        """The path may end here."""
        self.rest: _Leaf | None = None
        """Anything may follow."""

    def leaf(self, template: Template) -> _Leaf:
        """The leaf at the end of `template` below this root, made where it is missing."""
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
    """Every rule of a policy, by host, path and method. Immutable once `compile` was called."""

    def __init__(self) -> None:
        self._exact: dict[str, _Node] = {}
        self._below: dict[str, _Node] = {}
        """By the name behind `*.`; every host is below the empty name."""
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
        """Put `rule` where a request for one of the hosts, paths and methods (None: all) finds it."""
        named = None if methods is None else frozenset(methods)
        for host in hosts:
            trees = self._below if host.wildcard else self._exact
            tree = trees.setdefault(host.name, _Node())
            for path in paths:
                leaf = tree.leaf(path)
                leaf.rules.append((rule, named))
                self._leaves[id(leaf)] = leaf

    def compile(self, yield_gil: Breathe = no_breaks) -> "Index":
        """The index itself, ready to be asked."""
        cells: dict[tuple[Rule, ...], RuleSet] = {}
        for leaf in self._leaves.values():
            yield_gil()
            leaf.compile(cells)
        self._by_host = {host: self._trees_of(host) for host in self._exact}
        return self

    def release(self, yield_gil: Breathe) -> None:
        """Free the index piece by piece; it finds nothing any more."""
        self._by_host.clear()
        for cells in (self._merged, self._of_rules):
            while cells:
                cells.popitem()
        while self._leaves:
            yield_gil()
            _, leaf = self._leaves.popitem()
            leaf.rules.clear()
            leaf.by_method.clear()
            leaf.every_method = None
        for trees in (self._exact, self._below):
            while trees:
                _, tree = trees.popitem()
                while tree.plain:
                    yield_gil()
                    tree.plain.popitem()

    def find(self, host: str, method: str, segments: Sequence[str]) -> RuleSet:
        """The rules that cover the request; a cell without rules where there are none."""
        trees = self._by_host.get(host)
        if trees is None:
            trees = self._trees_of(host)
        found: list[RuleSet] = []
        for tree in trees:
            _walk(tree, method, segments, found)
        if len(found) == 1:
            return found[0]
        return self._merge(tuple(found), _all_rules) if found else NO_CELL

    def with_denials(
        self, cell: RuleSet, host: str, method: str, readings: Iterable[Sequence[str]]
    ) -> RuleSet:
        """The cell, and the deny rules that cover the request in other readings of its path."""
        others = tuple(
            found
            for found in (self.find(host, method, reading) for reading in readings)
            if found is not cell and found is not NO_CELL
        )
        return self._merge((cell, *others), _denying) if others else cell

    def cell_of(self, rules: Iterable[Rule]) -> RuleSet:
        """The cell of these rules: one object each time, so that answers made of its verdicts are kept."""
        key = tuple(dict.fromkeys(rules))
        cell = self._of_rules.get(key)
        if cell is None:
            cell = RuleSet(key)
            if len(self._of_rules) < MAX_MERGED:
                self._of_rules[key] = cell
        return cell

    def _trees_of(self, host: str) -> tuple[_Node, ...]:
        """The trees of every pattern that covers `host`: as many look-ups as the name has labels."""
        trees = [self._exact.get(host)]
        if self._below:
            _, dot, parent = host.partition(".")
            while dot:
                trees.append(self._below.get(parent))
                _, dot, parent = parent.partition(".")
            trees.append(self._below.get(""))
        return tuple(tree for tree in trees if tree is not None)

    def _merge(self, cells: tuple[RuleSet, ...], rules_of: "_RulesOf") -> RuleSet:
        key = (rules_of, cells)
        merged = self._merged.get(key)
        if merged is None:
            merged = RuleSet(rules_of(cells))
            if len(self._merged) < MAX_MERGED:
                self._merged[key] = merged
        return merged


_RulesOf = Callable[[tuple[RuleSet, ...]], Iterator[Rule]]


def _all_rules(cells: tuple[RuleSet, ...]) -> Iterator[Rule]:
    return (rule for cell in cells for rule in cell.rules)


def _denying(cells: tuple[RuleSet, ...]) -> Iterator[Rule]:
    """The deny rules of the cells after the first."""
    yield from cells[0].rules
    yield from (rule for rule in _all_rules(cells[1:]) if not rule.allows)


def _walk(tree: _Node, method: str, segments: Sequence[str], found: list[RuleSet]) -> None:
    """Add to `found` the cells of every template in the tree that covers the segments."""
    nodes = [tree]
    for segment in segments:
        below = []
        for node in nodes:
            if node.rest is not None:
                cell = node.rest.cell(method)
                if cell is not None:
                    found.append(cell)
            child = node.plain.get(segment)
            if child is not None:
                below.append(child)
            if node.any is not None and segment:
                below.append(node.any)
        nodes = below
        if not nodes:
            return
    for node in nodes:
        for leaf in (node.end, node.rest):
            if leaf is not None:
                cell = leaf.cell(method)
                if cell is not None:
                    found.append(cell)
