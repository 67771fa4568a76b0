"""Runs cases through the code that answers Envoy, and reports differences from the expected results."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz.engine.decide import Authorizer, Decision
from authz.engine.respond import Responder
from authz.policy.compile.compile import Policy
from authz.request.request import BadRequestError, Request
from authz.tools.examples import Given, outcome_of
from authz.tools.explain import Explanation, explain, explain_unreadable
from authz.tools.suites.load import Case
from authz.tools.suites.model import ExpectConfig
from authz.wire import ResponseContent, read_response

_ID: Final = "0" * 24
"""The decision id of every case, which is the same in each run."""
_OTHER_ID: Final = "f" * 24


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from the expected result."""

    what: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The result of a case."""

    case: Case
    decision: Decision
    explanation: Explanation
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether the case has no differences."""
        return not self.differences


class Runner:
    """Runs cases against one policy. Cases name the caller, so no credential is verified."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._responder = Responder(policy, _OTHER_ID)

    def decide(self, case: Case) -> tuple[Decision, Explanation]:
        """Return the decision and its explanation."""
        outcome = outcome_of(case.caller)
        authorizer = Authorizer(self._policy, Given(outcome), lambda: _ID)
        message = case.request.message()
        try:
            request = Request(message, case.trusted_hops)
        except BadRequestError as error:
            return authorizer.unreadable(message, error), explain_unreadable(error.reason)
        decision = authorizer.decide(request, case.now)
        assert isinstance(decision, Decision)  # noqa: S101  # only credentials need I/O
        return decision, explain(self._policy, request, outcome, case.now)

    def run(self, case: Case) -> CaseResult:
        """Run the case and return the result."""
        decision, explanation = self.decide(case)
        response = read_response(self._responder.respond(decision))
        return CaseResult(case, decision, explanation, tuple(_differences(case.expect, decision, response)))


def _differences(expect: ExpectConfig, decision: Decision, response: ResponseContent) -> Iterator[Difference]:
    verdict, shadow = decision.verdict, decision.shadow
    keys = expect.model_fields_set
    simple = (
        ("outcome", expect.outcome.value, verdict.outcome.value),
        ("status", expect.status, verdict.status),
        ("reason", expect.reason, verdict.reason),
        ("rule", expect.rule, verdict.rule),
        (
            "shadow",
            None if expect.shadow is None else expect.shadow.value,
            shadow.outcome.value if shadow else None,
        ),
        ("shadow_rule", expect.shadow_rule, shadow.rule if shadow else None),
    )
    for what, expected, got in simple:
        if what in keys and expected != got:
            yield Difference(what, _shown(expected), _shown(got))
    yield from _of_map("header", expect.headers, response.headers)
    yield from _missing("removed header", expect.removed_headers, response.removed_headers)
    yield from _of_map("response header", expect.response_headers, response.response_headers)
    yield from _of_map("query parameter", expect.query_set, response.query_set)
    yield from _missing("removed query parameter", expect.query_removed, response.query_removed)
    if expect.body_contains is not None and expect.body_contains not in response.body:
        yield Difference("body", f"contains {expect.body_contains!r}", response.body)
    yield from _of_map("metadata", expect.metadata, response.metadata)


def _of_map(what: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[Difference]:
    for name, value in expected.items():
        if got.get(name) != value:
            yield Difference(f"{what} {name}", _shown(value), _shown(got.get(name)))


def _missing(what: str, expected: Iterable[str], got: Iterable[str]) -> Iterator[Difference]:
    found = set(got)
    for name in expected:
        if name not in found:
            yield Difference(f"{what} {name}", "removed", "left alone")


def _shown(value: Any) -> str:
    return "nothing" if value in {None, ""} else str(value)
