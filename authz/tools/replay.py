"""Replays recorded requests against another policy, and reports those that would be decided differently.

A line of the access log lacks much that rules may test: headers that were not logged, redacted query
parameters, bodies, and everything of the caller but subject and kind of credential. So a condition on missing
data is unknown, and a request may have several possible results. It counts as `different` only if none of
them is the recorded one, and as `same` only if all are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from authz.engine.cors import preflight
from authz.engine.decide import REFUSED
from authz.policy.compile.compile import Policy
from authz.policy.conditions.condition import Condition
from authz.policy.rule import Outcome, Rule
from authz.request.identity import ANONYMOUS, Identity, RefusalReason
from authz.request.request import BadRequestError
from authz.tools.explain import why_not
from authz.tools.recorded_request import RecordedCaller, RecordedRequest, UnreadableRecordError

MAX_EXAMPLES: Final = 5
"""The most examples kept per group, so that a day of traffic fits into memory."""

MAX_LINE_BYTES: Final = 1 << 20
"""The longest line. The access log truncates records at 64 KiB, so a longer line is not one of them."""


class Skipped(StrEnum):
    """Why a line was not compared."""

    NOT_JSON = "not a line of JSON"
    NOT_HTTP = "not an HTTP request"
    NO_DECISION = "authz did not decide about it"
    ERROR = "the result was an error, not a decision"
    INCOMPLETE = "method, host or path is not recorded as it was sent"


@dataclass(slots=True)
class Group:
    """Requests whose result would change in the same way."""

    was: str
    was_rule: str
    would_be: str
    would_be_rule: str
    times: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The result of a replay."""

    same: int = 0
    different: int = 0
    unknown: int = 0
    skipped: Counter[Skipped] = field(default_factory=Counter)
    groups: dict[tuple[str, str, str, str], Group] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    """Data that undecidable requests lack, with the number of requests."""
    other_revisions: Counter[str] = field(default_factory=Counter)
    """Revisions of other policies than the given old one that decided lines, with the number of lines."""


@dataclass(frozen=True, slots=True)
class Possible:
    """One possible result."""

    outcome: str
    rule: str


def replay(
    lines: Iterable[bytes],
    new: Policy,
    old: Policy | None = None,
    callers: Mapping[str, Identity] | None = None,
) -> Report:
    """Return the report on `lines` of an access log.

    `old` is the policy that decided them: conditions that must have been true in its rules are taken as true
    in rules of `new` that have the same condition. `callers` are known callers by subject.
    """
    report = Report()
    replayer = _Replayer(new, old, callers or {}, report)
    for line in lines:
        if line.strip():
            replayer.take(line)
    return report


class _Replayer:
    def __init__(
        self, new: Policy, old: Policy | None, callers: Mapping[str, Identity], report: Report
    ) -> None:
        self._new = new
        self._old = old
        self._old_rules = {} if old is None else {rule.name: rule for rule in old.rules}
        self._callers = callers
        self._report = report

    def take(self, line: bytes) -> None:
        report = self._report
        record, skipped = _record_of(line)
        if record is None:
            report.skipped[skipped] += 1
            return
        try:
            request = RecordedRequest(record)
            now = datetime.fromisoformat(record["time"]).timestamp()
        except UnreadableRecordError:
            report.skipped[Skipped.INCOMPLETE] += 1
            return
        except BadRequestError as error:
            self._settle(record, {Possible("deny", "")}, {f"request: {error.reason}"})
            return
        except (KeyError, ValueError, TypeError):
            report.skipped[Skipped.INCOMPLETE] += 1
            return
        revision = record.get("authz_policy_revision", "")
        if self._old is not None and revision != self._old.revision:
            report.other_revisions[str(revision)] += 1
        search = _Search(self._new, request, record, self._callers, self._facts(record), now)
        self._settle(record, set(search.answers()), search.missing)

    def _facts(self, record: Mapping[str, Any]) -> dict[tuple[bool, str], bool]:
        """Return what the recorded decision implies about conditions, by (is an allow rule, text)."""
        rule = self._old_rules.get(record.get("authz_rule", ""))
        if rule is None or self._old is None or record.get("authz_policy_revision") != self._old.revision:
            return {}
        reason = record.get("authz_reason")
        if reason == rule.verdict.reason:
            certain = [*rule.requests, *rule.demands, *(rule.callers[0] if len(rule.callers) == 1 else ())]
            return {(rule.allows, condition.text): True for condition in certain}
        if reason == "credentials_insufficient" and len(rule.callers) == 1 and not rule.demands:
            _authenticated, *others = rule.callers[0]
            return {(rule.allows, others[0].text): False} if len(others) == 1 else {}
        return {}

    def _settle(self, record: Mapping[str, Any], answers: set[Possible], missing: set[str]) -> None:
        report = self._report
        was = str(record["authz_outcome"])
        outcomes = {answer.outcome for answer in answers}
        if outcomes == {was}:
            report.same += 1
        elif was not in outcomes:
            report.different += 1
            self._group(record, min(answers, key=lambda one: (one.outcome, one.rule)))
        else:
            report.unknown += 1
            report.missing.update(missing)

    def _group(self, record: Mapping[str, Any], answer: Possible) -> None:
        was, was_rule = str(record["authz_outcome"]), str(record.get("authz_rule", ""))
        key = (was, was_rule, answer.outcome, answer.rule)
        group = self._report.groups.setdefault(key, Group(*key))
        group.times += 1
        if len(group.examples) < MAX_EXAMPLES:
            names = ("method", "authority", "path", "authz_subject", "authz_decision_id")
            group.examples.append(" ".join(str(record[name]) for name in names if record.get(name)))


def _record_of(line: bytes) -> tuple[dict[str, Any] | None, Skipped]:
    try:
        record = orjson.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except orjson.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        return None, Skipped.NOT_JSON
    if record.get("type") != "http":
        return None, Skipped.NOT_HTTP
    outcome = record.get("authz_outcome")
    if outcome is None:
        return None, Skipped.NO_DECISION
    if outcome not in {Outcome.ALLOW.value, Outcome.DENY.value}:
        return None, Skipped.ERROR if outcome == Outcome.ERROR.value else Skipped.NO_DECISION
    return record, Skipped.NOT_JSON


class _Search:
    """Finds the possible results of one recorded request, and collects `missing` data."""

    def __init__(
        self,
        policy: Policy,
        request: RecordedRequest,
        record: Mapping[str, Any],
        callers: Mapping[str, Identity],
        facts: Mapping[tuple[bool, str], bool],
        now: float,
    ) -> None:
        self._policy = policy
        self._request = request
        self._record = record
        self._known = callers.get(str(record.get("authz_subject", "")))
        self._facts = facts
        self._now = now
        self._refused_is_none = False
        self.missing: set[str] = set()

    def answers(self) -> Iterator[Possible]:
        """Yield every possible result, at least one."""
        request = self._request
        if self._policy.cors and request.method == "OPTIONS":
            found = preflight(self._policy, request)
            if found is not None:
                yield Possible(found.outcome.value, found.rule)
                return
            if request.missing:
                self._note()
                yield Possible(Outcome.PREFLIGHT.value, "")
        rules = [rule for rule in self._policy.rules if not rule.shadow and not why_not(rule, request)]
        if request.path.oddities and not any(rule.allows for rule in rules):
            yield Possible("deny", "")
            return
        reason = self._record.get("authz_reason")
        refusals = {one.value: one for one in RefusalReason}
        if reason in refusals:
            optional = [self._met(rule, rule.requests) for rule in rules if rule.open and rule.identifies]
            if True not in optional:
                yield from self._refused(rules, REFUSED[refusals[reason]].outcome)
            if any(met is not False for met in optional):
                self._refused_is_none = True
                yield from self._judged(rules)
        else:
            yield from self._judged(rules)

    def _judged(self, rules: list[Rule]) -> Iterator[Possible]:
        for rule in _denies_first(rules):
            applies = self._applies(rule)
            if applies is not False:
                yield _by(rule)
            if applies is True:
                return
        first = next((rule.name for rule in rules if rule.allows), "")
        yield Possible("deny", first)

    def _refused(self, rules: list[Rule], refusal: Outcome) -> Iterator[Possible]:
        """Yield the results with a refused credential: only rules for anyone can decide then."""
        unsettled: bool | None = False
        for rule in _denies_first(rules):
            met = self._met(rule, rule.requests)
            if met is False:
                continue
            if not rule.open:
                unsettled = unsettled or (unsettled if rule.allows else met)
                continue
            if rule.allows and unsettled:
                break
            yield _by(rule)
            if met is True and (unsettled is False or not rule.allows):
                return
        yield Possible(refusal.value, next((rule.name for rule in rules if rule.allows), ""))

    def _applies(self, rule: Rule) -> bool | None:
        """Whether the rule applies to request and caller; None if that depends on missing data."""
        found = [self._met(rule, rule.requests), self._met(rule, rule.demands)]
        if rule.callers:
            described = [self._met(rule, conditions) for conditions in rule.callers]
            found.append(True if True in described else None if None in described else False)
        return False if False in found else None if None in found else True

    def _met(self, rule: Rule, conditions: Iterable[Condition]) -> bool | None:
        result: bool | None = True
        for condition in conditions:
            held = self._held(rule, condition)
            if held is False:
                return False
            if held is None:
                result = None
        return result

    def _held(self, rule: Rule, condition: Condition) -> bool | None:
        fact = self._facts.get((rule.allows, condition.text))
        if fact is not None:
            return fact
        # A new caller and an unread body each time: cached values would hide that missing data is read.
        caller = self._caller()
        self._request.missing.clear()
        self._request.body_fields = None
        held = condition.test(caller, self._request, self._now)  # type: ignore[arg-type]  # as far as recorded
        if isinstance(caller, RecordedCaller):
            self._request.missing |= caller.missing
        if self._request.missing:
            self._note()
            return None
        return held if held is not None else not rule.allows

    def _caller(self) -> Identity | RecordedCaller:
        if self._refused_is_none:
            return ANONYMOUS
        if self._known is not None:
            return self._known
        if self._record.get("authz_reason") == "credentials_missing":
            return ANONYMOUS
        return RecordedCaller(self._record)

    def _note(self) -> None:
        self.missing |= self._request.missing


def _denies_first(rules: list[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: (rule.allows, rule.order))


def _by(rule: Rule) -> Possible:
    return Possible(rule.verdict.outcome.value, rule.name)
