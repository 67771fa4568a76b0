"""The platform's own files are complete and do not contradict themselves."""

from collections.abc import Iterator

from common.configfile import Problem
from edge.intent.check.overlaps import holdings_of, overlapping
from edge.intent.check.rules import bad_expressions, known_issuers
from edge.intent.check.spelling import Spelling
from edge.intent.model import DenyRule, Layer
from edge.intent.platform import Platform
from edge.intent.resolve import redact_rules


def incomplete(platform: Platform, rules: tuple[DenyRule, ...], spelling: Spelling) -> Iterator[Problem]:
    """Yield what is wrong with the platform as a whole."""
    if platform.content.domain is None:
        yield platform.problem(("domain",), "domain is required: that of Envoy's ratelimit filter")
    holdings = [holding for team in platform.teams.values() for holding in holdings_of(team)]
    yield from overlapping(holdings, spelling, "team")
    yield from _unknown_issuers(platform)
    yield from _rules(platform, rules)
    yield from _default_access(platform)
    for position, limit in enumerate(platform.content.overrides.limits):
        if limit.share is not None:
            message = "a share depends on the tier of a service: write requests and period"
            yield platform.problem(("overrides", "limits", position, "share"), message)
    log = platform.content.overrides.log
    for rule in redact_rules(log, platform.origin(Layer.OVERRIDE, "overrides", "log")):
        yield from bad_expressions(rule)
    default = platform.content.defaults.log
    for rule in redact_rules(default, platform.origin(Layer.DEFAULT, "defaults", "log")):
        yield from bad_expressions(rule)


def _unknown_issuers(platform: Platform) -> Iterator[Problem]:
    known = known_issuers(platform)
    for team in platform.teams.values() if known is not None else ():
        for position, issuer in enumerate(team.issuers or ()):
            if known is not None and issuer not in known:
                has = ", ".join(sorted(known)) or "none"
                message = f"policy.credentials has no issuer {issuer!r}; it has {has}"
                yield team.origin.problem(message, "issuers", position)


def _default_access(platform: Platform) -> Iterator[Problem]:
    who = platform.content.defaults.who
    origin = platform.origin(Layer.DEFAULT, "defaults", "who")
    for name in (who.named or ()) if who is not None else ():
        if name not in platform.content.policy.conditions:
            yield origin.problem(f"policy.conditions has no condition {name!r}", "if")
    if who is not None and who.when is not None and who.when.path_variables:
        name = min(who.when.path_variables)
        yield origin.problem(f"vars.{name}: a default holds for paths without that variable, too", "when")


def _rules(platform: Platform, rules: tuple[DenyRule, ...]) -> Iterator[Problem]:
    first: dict[str, DenyRule] = {}
    conditions = platform.content.policy.conditions
    for rule in rules:
        other = first.setdefault(rule.config.name, rule)
        if other is not rule:
            message = f"{rule.config.name!r} is already the name of {other.origin.place}"
            yield rule.origin.problem(message, "name")
        if "." in rule.config.name:
            message = "a name with a dot could be that of a route (SERVICE.ID): write another one"
            yield rule.origin.problem(message, "name")
        if rule.config.inherit is not None:
            yield rule.origin.problem("a rule of the platform inherits nothing: write its keys", "inherit")
        for name in rule.config.named or ():
            if name not in conditions:
                yield rule.origin.problem(f"policy.conditions has no condition {name!r}", "if")
        when = rule.config.when
        for path in rule.config.paths if when is not None else ():
            lacking = sorted(when.path_variables.difference(path.variables)) if when is not None else []
            if lacking:
                message = f"vars.{lacking[0]}: the path {path} has no variable of that name"
                yield rule.origin.problem(message, "when")
