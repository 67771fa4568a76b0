"""Finds deny rules that another spelling of a path evades. They are legal, so the findings are warnings.

Express, koa-router and others serve `/admin` for `/ADMIN` and for `/admin/`. If a broad rule allows what
another denies, the spelling decides, unless the policy says how its upstreams compare paths. The same holds
if the `when` of a deny rule compares a path with text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from authz.policy.expression.expression import Expression
from authz.policy.index import Index, RuleSet
from authz.policy.model import RuleConfig
from authz.policy.rule import Rule
from authz.policy.types.paths import PathsConfig
from authz.policy.types.pattern import EVERY_HOST, HostPattern, Template
from common.configfile import Breathe

_SOME: Final = "x"
"""An example of a segment or host label, and in capitals of a method."""


Expressions = Callable[[Rule], Iterable[Expression]]
"""Returns the `when` of each block of a rule's conditions."""


def escapes(
    rules: Sequence[tuple[RuleConfig, Rule]],
    index: Index,
    paths: PathsConfig | None,
    yield_gil: Breathe,
    expressions: Expressions,
) -> Iterator[tuple[Rule, str, str]]:
    """Yield the deny rules that another spelling of a path evades: the rule, its key and the message.

    `paths` is the `paths` block of the policy; differences that it settles are not reported.
    """
    settled: AbstractSet[str] = frozenset() if paths is None else paths.model_fields_set
    if {"case", "trailing_slash"} <= settled:
        return
    for config, rule in rules:
        yield_gil()
        if rule.allows or rule.shadow:
            continue
        if "case" not in settled:
            message = next(_ways_around_expressions(config, rule, index, expressions(rule)), None)
            if message is not None:
                yield rule, "when", message
        found = next(_ways_around(config, rule, index, settled), None)
        if found is not None:
            key, path, other = found
            allowed = (
                f"which {other.name!r} ({other.source}) allows and many upstreams serve as the same path"
            )
            way_out = f"write paths: {{{key}: ignore}}, or exact if yours distinguishes them"
            yield rule, "paths", f"does not deny {path}, {allowed}: {way_out}"


def _ways_around_expressions(
    config: RuleConfig, rule: Rule, index: Index, expressions: Iterable[Expression]
) -> Iterator[str]:
    texts = (text for one in expressions for text in one.compared.paths if text != text.swapcase())
    text = next(texts, None)
    if text is None:
        return
    lower = text.casefold()
    right = f" and {lower!r}" if lower != text and "\\" not in text else ""
    for template in config.paths:
        segments = [_SOME if segment is None else segment for segment in template.segments]
        if template.rest:
            segments.append(_SOME)
        for host in config.hosts:
            for method in config.methods or (_SOME.upper(),):
                rule_set = index.find(_example(host), method, segments)
                allow = _allowed(rule_set, rule)
                if allow is not None:
                    yield (
                        f"compares a path with {text!r} in this letter case only; {allow.name!r} "
                        f"({allow.source}) allows others, and many upstreams serve both as one path: "
                        f"write paths: {{case: ignore}}{right}, or exact if yours distinguishes them"
                    )


def _allowed(rule_set: RuleSet, rule: Rule) -> Rule | None:
    """Return the first rule that allows callers the rule denies, unless another rule denies everything."""
    if any(one.open and not one.requests for one in rule_set.denies if one is not rule):
        return None
    return next((one for one in rule_set.allows if one.open or not rule.open), None)


def _ways_around(
    config: RuleConfig, rule: Rule, index: Index, settled: AbstractSet[str]
) -> Iterator[tuple[str, str, Rule]]:
    for template in config.paths:
        for key, segments in _other_spellings(template):
            if key in settled:
                continue
            for host in config.hosts:
                for method in config.methods or (_SOME.upper(),):
                    rule_set = index.find(_example(host), method, segments)
                    if rule in rule_set.denies:
                        continue
                    allow = _allowed(rule_set, rule)
                    if allow is not None:
                        yield key, "/" + "/".join(segments), allow


def _other_spellings(template: Template) -> Iterator[tuple[str, list[str]]]:
    segments = [_SOME if segment is None else segment for segment in template.segments]
    if template.rest:
        segments.append(_SOME)
    upper = [
        segment if wanted is None else segment.swapcase()
        for segment, wanted in zip(segments, (*template.segments, None), strict=False)
    ]
    if upper != segments:
        yield "case", upper
    if not template.rest and segments[-1]:
        yield "trailing_slash", [*segments, ""]


def _example(host: HostPattern) -> str:
    if host == EVERY_HOST:
        return _SOME
    return f"{_SOME}.{host.name}" if host.wildcard else host.name
