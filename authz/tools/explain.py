"""Explains a decision: every step and every rule that was considered, as data.

It evaluates every rule directly instead of using the index, so a test can compare it with
`authz.engine.decide` for requests of every kind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from authz.engine.cors import preflight
from authz.engine.decide import ODD_PATH, REFUSED
from authz.policy.compile.compile import Policy
from authz.policy.conditions.condition import Condition
from authz.policy.rule import Outcome, Rule
from authz.policy.types.pattern import HostPattern
from authz.request.identity import ANONYMOUS, Authentication, Identity, Refusal
from authz.request.path import NO_ANOMALY, PathAnomaly
from authz.request.request import BadRequestReason, Request


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition and its result."""

    text: str
    held: bool | None
    """None if the result is unknown, which never allows and always denies."""
    found: str
    """The value that was found."""
    name: str = ""
    """The named condition that it comes from."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule that was considered, and the result."""

    rule: Rule
    covered: bool
    """Whether the rule covers host, method and path."""
    why_not: str = ""
    """The reason if it does not cover them."""
    requests: tuple[Finding, ...] = ()
    """Its conditions on the request."""
    demands: tuple[Finding, ...] = ()
    """Its conditions on the caller, all of which must hold; empty if the caller did not matter."""
    callers: tuple[tuple[Finding, ...], ...] = ()
    """Its descriptions of callers, any of which must hold; empty if the caller did not matter."""
    applies: bool | None = None
    """Whether the rule applies; None if it was not evaluated or does not cover the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a decision."""

    outcome: Outcome
    reason: str
    status: int
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a decision."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its steps and the rules that were considered."""

    answer: Answer
    steps: tuple[Step, ...]
    considered: tuple[Considered, ...] = ()
    shadow: Answer | None = None
    """The result with the shadow rules enforced, if its outcome differs."""


def explain_unreadable(reason: BadRequestReason) -> Explanation:
    """Explain the refusal of a request that cannot be judged."""
    answer = Answer(Outcome.DENY, reason.value, 400)
    return Explanation(answer, (Step("request", f"could be read in several ways: {reason.value}"),))


def explain(policy: Policy, request: Request, outcome: Authentication, now: float) -> Explanation:
    """Explain the decision about `request` with this outcome of authentication; `now` is in unix seconds."""
    path = request.path
    steps = [Step("request", f"{request.method} {request.host} {request.raw_path}")]
    if policy.cors and request.method == "OPTIONS":
        verdict = preflight(policy, request)
        if verdict is not None:
            steps.append(Step("preflight", f"answered by the CORS settings of {verdict.rule!r}"))
            answer = Answer(verdict.outcome, verdict.reason, verdict.status, verdict.rule)
            return Explanation(answer, tuple(steps))
    considered = [_consider(rule, request, now) for rule in policy.rules]
    if path.oddities:
        accepted = any(one.covered and one.rule.allows and not one.rule.shadow for one in considered)
        steps.append(_odd_path_step(path.oddities, accepted=accepted))
        if not accepted:
            anomaly = next(iter(path.oddities))
            answer = Answer(Outcome.DENY, ODD_PATH[anomaly].reason, 400)
            return Explanation(answer, tuple(steps), tuple(considered))
    return _Judgement(considered, request, outcome, now).explanation(steps)


class _Judgement:
    """Decides by the rules that cover a request."""

    def __init__(
        self, considered: Sequence[Considered], request: Request, outcome: Authentication, now: float
    ) -> None:
        self._considered = considered
        self._request = request
        self._outcome = outcome
        self._now = now
        applicable = [one.rule for one in considered if one.covered and _all_met(one.rule, one.requests)]
        self._rules = applicable
        self._missed = next(
            (one.rule for one in considered
             if one.covered and one.rule.allows and not one.rule.shadow and one.rule not in applicable),
            None,
        )  # fmt: skip

    def explanation(self, steps: list[Step]) -> Explanation:
        enforced = [rule for rule in self._rules if not rule.shadow]
        denies = sum(not rule.allows for rule in enforced)
        steps.append(
            Step("rules", f"{denies} deny and {len(enforced) - denies} allow rules apply to the request")
        )
        settled = self._settled(enforced)
        if settled is not None:
            steps.append(Step("credential", "not verified: the result is the same for every caller"))
            answer, identity = settled, ANONYMOUS
        elif isinstance(self._outcome, Refusal) and not _optional(enforced):
            detail = f": {self._outcome.detail}" if self._outcome.detail else ""
            steps.append(Step("credential", f"refused: {self._outcome.reason.value}{detail}"))
            verdict = REFUSED[self._outcome.reason]
            asking = sorted((rule for rule in enforced if not rule.open), key=lambda rule: not rule.allows)
            first = asking[0].name if asking else ""
            return self._done(Answer(verdict.outcome, verdict.reason, verdict.status, first), steps, None)
        else:
            if isinstance(self._outcome, Refusal):
                identity, shown = ANONYMOUS, _refused_text(self._outcome)
            else:
                identity = self._outcome or ANONYMOUS
                shown = _who(identity)
            steps.append(Step("credential", shown))
            answer = self._judged(enforced, identity)
        shadow = None
        if len(enforced) < len(self._rules):
            would_be = self._settled(self._rules) or self._judged(self._rules, identity)
            shadow = would_be if would_be.outcome is not answer.outcome else None
        return self._done(answer, steps, None if settled is not None else identity, shadow)

    def _settled(self, rules: Sequence[Rule]) -> Answer | None:
        denies = [rule for rule in rules if not rule.allows]
        allows = [rule for rule in rules if rule.allows]
        decided = next((rule for rule in denies if rule.open), None)
        if decided is None and not allows:
            if self._missed is None:
                return Answer(Outcome.DENY, "no_rule", 403)
            return Answer(Outcome.DENY, "conditions_unmet", 403, self._missed.name)
        if decided is None and not denies and not _optional(rules):
            decided = next((rule for rule in allows if rule.open), None)
        return None if decided is None else _by(decided)

    def _judged(self, rules: Sequence[Rule], identity: Identity) -> Answer:
        ordered = [rule for rule in rules if not rule.allows] + [rule for rule in rules if rule.allows]
        for rule in ordered:
            if _applies(rule, *_of_caller(rule, identity, self._request, self._now)):
                return _by(rule)
        first = next(rule.name for rule in rules if rule.allows)
        if identity is ANONYMOUS:
            return Answer(Outcome.DENY, "credentials_missing", 401, first)
        return Answer(Outcome.DENY, "credentials_insufficient", 403, first)

    def _done(
        self, answer: Answer, steps: list[Step], caller: Identity | None, shadow: Answer | None = None
    ) -> Explanation:
        """Return the explanation. `caller` is None if the result is the same for every caller."""
        considered = tuple(self._finished(one, caller) for one in self._considered)
        return Explanation(answer, tuple(steps), considered, shadow)

    def _finished(self, one: Considered, caller: Identity | None) -> Considered:
        rule = one.rule
        if not one.covered:
            return one
        applies: bool | None = None
        demands: tuple[Finding, ...] = ()
        callers: tuple[tuple[Finding, ...], ...] = ()
        if rule not in self._rules:
            applies = False
        elif rule.open:
            applies = True
        elif caller is not None:
            demands, callers = _of_caller(rule, caller, self._request, self._now)
            applies = _applies(rule, demands, callers)
        return Considered(
            rule, covered=True, requests=one.requests, demands=demands, callers=callers, applies=applies
        )


def _consider(rule: Rule, request: Request, now: float) -> Considered:
    reason = why_not(rule, request)
    if reason:
        return Considered(rule, covered=False, why_not=reason)
    return Considered(rule, covered=True, requests=_findings(rule.requests, ANONYMOUS, request, now))


def why_not(rule: Rule, request: Request) -> str:
    """Explain which of host, method and path the rule does not cover; empty if it covers all."""
    if not any(host_covers(host, request.host) for host in rule.hosts):
        return f"host {request.host} is not {_one_of(rule.hosts)}"
    if rule.methods is not None and request.method not in rule.methods:
        return f"method {request.method} is not {_one_of(rule.methods)}"
    path = request.path
    readings = [path.segments] if rule.allows else rule.matching.readings(path) or [path.segments]
    templates = rule.matching.templates(rule.templates)
    if all(rule.matching.bind(templates, one) is None for one in readings):
        return f"path {request.raw_path} is not {_one_of(rule.templates)}"
    if path.oddities and rule.shadow:
        return "shadow rules are not tested on paths with anomalies"
    if rule.allows and path.readings() is None:
        return "the path can be read in too many ways"
    refused = path.oddities & ~rule.accepts if rule.allows else NO_ANOMALY
    return f"the rule does not accept {_names(refused)} in a path" if refused else ""


def host_covers(pattern: HostPattern, host: str) -> bool:
    """Whether the pattern covers this canonical host."""
    if not pattern.wildcard:
        return host == pattern.name
    return not pattern.name or host.endswith(f".{pattern.name}")


def _of_caller(
    rule: Rule, identity: Identity, request: Request, now: float
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, ...], ...]]:
    demands = _findings(rule.demands, identity, request, now)
    return demands, tuple(_findings(conditions, identity, request, now) for conditions in rule.callers)


def _findings(
    conditions: Iterable[Condition], identity: Identity, request: Request, now: float
) -> tuple[Finding, ...]:
    return tuple(
        Finding(one.text, one.test(identity, request, now), one.why(identity, request, now), one.name)
        for one in conditions
    )


def _all_met(rule: Rule, findings: Iterable[Finding]) -> bool:
    """Whether all conditions hold; unknown counts as true for a deny rule."""
    return all(one.held or (one.held is None and not rule.allows) for one in findings)


def _applies(rule: Rule, demands: Sequence[Finding], callers: Sequence[Sequence[Finding]]) -> bool:
    return _all_met(rule, demands) and (not callers or any(_all_met(rule, one) for one in callers))


def _by(rule: Rule) -> Answer:
    verdict = rule.verdict
    return Answer(verdict.outcome, verdict.reason, verdict.status, rule.name)


def _optional(rules: Iterable[Rule]) -> bool:
    """Whether one of the rules allows anyone and still authenticates the caller."""
    return any(rule.allows and rule.open and rule.identifies for rule in rules)


def _refused_text(refusal: Refusal) -> str:
    return f"refused: {refusal.reason.value}; ignored, because a rule with identify: optional allows anyone"


def _who(identity: Identity) -> str:
    if identity is ANONYMOUS:
        return "none: the caller is unknown"
    return f"{identity.kind.value}: {identity.subject or 'no subject'}"


def _odd_path_step(oddities: PathAnomaly, *, accepted: bool) -> Step:
    what = f"has anomalies: {_names(oddities)}"
    return Step("path", f"{what}; a rule accepts them" if accepted else f"{what}; no rule accepts them")


def _names(oddities: PathAnomaly) -> str:
    return ", ".join(anomaly.name.lower() for anomaly in oddities if anomaly.name)


def _one_of(values: Iterable[object]) -> str:
    return " or ".join(map(str, values))
