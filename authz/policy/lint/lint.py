"""Finds rules that cannot mean what they say. They are legal, so the findings are warnings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from authz.policy.conditions.condition import Condition
from authz.policy.index import Index
from authz.policy.model import ONLY_FOR_ALLOW, RuleConfig
from authz.policy.rule import Rule
from authz.policy.types.pattern import EVERY_HOST, EVERY_PATH, HostPattern, Template
from common.background import Composite, release
from common.configfile import Breathe, no_breaks

_Conditions = tuple[object, ...]
_UNASKED: Final = "credentials are ignored; write identify: optional to verify them, or identify: never"
_SOMETHING: Final = "\0"
"""A segment, host label or method that no rule can name, so that only wildcards cover it."""

Alike = Callable[[Rule, Rule], bool]
"""Whether two rules with the same effect have the same conditions, apart from host, method and path."""


def lint(
    rules: Sequence[tuple[RuleConfig, Rule]],
    alike: Alike,
    yield_gil: Breathe = no_breaks,
    *,
    sets_identity: bool = False,
) -> list[tuple[Rule, str]]:
    """Return warnings with the rules they concern, in the order of the rules.

    `sets_identity` says whether the policy itself configures identity headers.

    An allow rule covered by a rule that denies anyone never decides; one covered by a rule that allows anyone
    requires a credential in vain; a rule covered by one with the same effect adds nothing.
    """
    linter = _Linter(rules, alike, yield_gil, sets_identity=sets_identity)
    found: list[tuple[Rule, str]] = []
    # From the last to the first: of two rules that cover each other, the later adds nothing.
    for (config, rule), conditions in zip(reversed(rules), reversed(linter.conditions), strict=True):
        yield_gil()
        found += ((rule, message) for message in reversed([*linter.messages(config, rule, conditions)]))
    indices = linter.indices()
    del linter
    release(indices, yield_gil)
    return found[::-1]


class _Linter:
    """Indexes the rules that may cover others by their conditions."""

    def __init__(
        self,
        rules: Sequence[tuple[RuleConfig, Rule]],
        alike: Alike,
        yield_gil: Breathe,
        *,
        sets_identity: bool,
    ) -> None:
        self._alike = alike
        self._sets_identity = sets_identity
        self._denials, self._openings, self._same = Index(), Index(), dict[_Conditions, Index]()
        self._needless: set[Rule] = set()
        """Rules reported to add nothing. All may be removed, so none of them counts as covering another."""
        self._deepest = 0
        self.conditions = [_conditions_of(config, rule) for config, rule in rules]
        often = Counter(self.conditions)
        del often[()]
        for (config, rule), conditions in zip(rules, self.conditions, strict=True):
            yield_gil()
            if rule.open and not rule.requests and not rule.shadow:
                self._add(self._openings if rule.allows else self._denials, config, rule)
            if often[conditions] > 1:
                self._add(self._same.setdefault(conditions, Index()), config, rule)
        for index in (self._denials, self._openings, *self._same.values()):
            index.compile(yield_gil)

    def messages(self, config: RuleConfig, rule: Rule, conditions: _Conditions) -> Iterator[str]:
        """Yield the warnings about the rule."""
        if rule.allows:
            yield from self._of_allow(config, rule, conditions)
        elif not rule.shadow:
            yield from self._of_deny(config, rule, conditions)

    def indices(self) -> list[Composite]:
        """Return all indices, for `release`."""
        return [self._denials, self._openings, *self._same.values()]

    def _add(self, index: Index, config: RuleConfig, rule: Rule) -> None:
        index.add(rule, config.hosts, config.paths, config.methods)
        self._deepest = max(self._deepest, *(len(path.segments) for path in config.paths))

    def _of_allow(self, config: RuleConfig, rule: Rule, conditions: _Conditions) -> Iterator[str]:
        if _allows_all(config, rule):
            yield "allows anyone anything, on every host and path"
        denial = self._cover(self._denials, config)
        if denial is not None:
            yield f"never decides: {_named(denial)} denies anyone all that it covers"
        opening = None if rule.open and not rule.requests else self._cover(self._openings, config)
        if opening is not None:
            looks = (
                ""
                if opening.identifies
                else ", and the upstream gets no identity; identify: optional there sends it"
            )
            yield f"requires a credential in vain: {_named(opening)} allows anyone all that it covers{looks}"
        if rule.open and not rule.shadow and config.identify is None:
            yield from _of_opening(config, sets_identity=self._sets_identity)
        broader = self._broader(config, rule, conditions)
        if broader is not None:
            self._needless.add(rule)
            yield f"adds nothing: {_named(broader)} allows these callers all of it"

    def _of_deny(self, config: RuleConfig, rule: Rule, conditions: _Conditions) -> Iterator[str]:
        # A rule that denies anyone decides before rules that test the caller.
        denial = self._cover(
            self._denials, config, lambda other: self._counts(other, rule) and _answers(other, rule)
        )
        broader = self._broader(config, rule, conditions) if denial is None else None
        if denial is not None:
            yield f"adds nothing: {_named(denial)} denies anyone all of it"
        elif broader is not None:
            yield f"adds nothing: {_named(broader)} denies all of it on the same conditions"
        if denial is not None or broader is not None:
            self._needless.add(rule)

    def _broader(self, config: RuleConfig, rule: Rule, conditions: _Conditions) -> Rule | None:
        """Return a rule with the same conditions that covers all of this one."""
        index = self._same.get(conditions)
        if index is None:
            return None
        return self._cover(
            index,
            config,
            lambda other: self._counts(other, rule) and _answers(other, rule) and self._alike(other, rule),
        )

    def _counts(self, other: Rule, rule: Rule) -> bool:
        return other is not rule and other not in self._needless

    def _cover(
        self, index: Index, config: RuleConfig, counts: Callable[[Rule], bool] | None = None
    ) -> Rule | None:
        """Return a rule of the index if those of its rules that count cover everything this rule covers."""
        cover = None
        for host in config.hosts:
            for path in config.paths:
                for segments in _examples(path, self._deepest):
                    for method in config.methods or (_SOMETHING,):
                        rules = index.find(_example_host(host), method, segments).rules
                        cover = next((one for one in rules if counts is None or counts(one)), None)
                        if cover is None:
                            return None
        return cover


def _of_opening(config: RuleConfig, *, sets_identity: bool) -> Iterator[str]:
    """Yield warnings about caller attributes that a rule for anyone seems to pass on but does not."""
    filled = {
        "identity_headers": config.identity_headers,
        "response_headers": config.response_headers,
        "query_set": config.query_set,
    }
    empty = [key for key, templates in filled.items() if any(one.of_caller for one in templates.values())]
    if empty:
        yield f"leaves {' and '.join(empty)} empty: anyone is allowed, and {_UNASKED}"
    elif sets_identity:
        yield f"sends no identity upstream, also for a good credential: anyone is allowed, and {_UNASKED}"


def _named(rule: Rule) -> str:
    return f"{rule.name!r} ({rule.source})"


def _answers(other: Rule, rule: Rule) -> bool:
    """Whether a client gets the same response if `other` decides instead of `rule`."""
    same = _response(other) == _response(rule)
    return same or other.order < rule.order or (other.open and not rule.open)


def _response(rule: Rule) -> tuple[int, str, int]:
    verdict = rule.verdict
    return verdict.status, verdict.detail, verdict.retry_after_seconds


def _allows_all(config: RuleConfig, rule: Rule) -> bool:
    everywhere = EVERY_HOST in config.hosts and EVERY_PATH.segments in {
        path.segments for path in config.paths if path.rest
    }
    return everywhere and config.methods is None and rule.open and not rule.requests and not rule.shadow


def _conditions_of(config: RuleConfig, rule: Rule) -> _Conditions:
    """Return the rule's conditions, without host, method and path; empty if it is not to be compared."""
    if rule.shadow or (rule.open and not rule.requests):
        return ()
    if rule.allows and (rule.open or rule.requests or rule.demands):
        return ()
    if config.model_fields_set & ONLY_FOR_ALLOW:
        # Its response may differ from that of another allow rule.
        return ()
    callers = tuple(_texts(conditions) for conditions in rule.callers)
    conditions = (*_texts(rule.requests), *_texts(rule.demands))
    # In an expression, the value of `vars` depends on the path.
    binds = any(text.startswith("when ") and "vars" in text for text in conditions)
    return (rule.allows, callers, conditions, config.paths if binds else ())


def _texts(conditions: Iterable[Condition]) -> tuple[str, ...]:
    return tuple(condition.text for condition in conditions)


def _example_host(host: HostPattern) -> str:
    if not host.wildcard:
        return host.name
    return f"{_SOMETHING}.{host.name}" if host.name else _SOMETHING


def _examples(path: Template, deepest: int) -> Iterator[list[str]]:
    """Yield paths that are all covered exactly if the whole template is."""
    segments = [_SOMETHING if segment is None else segment for segment in path.segments]
    if segments or not path.rest:
        yield segments
    if path.rest:
        yield [*segments, ""]
        for more in range(1, max(1, deepest - len(segments)) + 2):
            yield segments + [_SOMETHING] * more
