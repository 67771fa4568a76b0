"""Decides one request: a check request goes in, a decision comes out.

The steps are ordered: refuse a request that cannot be judged (400), find the rules that cover it, answer
if they settle it for every caller, and only then authenticate the caller. A path that is open to anyone is
therefore answered without a look at credentials, and a bad token does not cause a refusal there. The
identity headers are removed in every case.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, count
from typing import Final, NamedTuple
from weakref import ReferenceType, ref

from authz.credentials.mtls.verifier import HEADER as FORWARDED_CERTIFICATE
from authz.engine.cors import preflight
from authz.engine.shortfall import shortfall
from authz.policy.compile.compile import Policy
from authz.policy.index import RuleSet
from authz.policy.rule import Outcome, Verdict
from authz.policy.types.paths import EXACT
from authz.request.identity import ANONYMOUS, Authentication, Authenticator, Identity, Refusal, RefusalReason
from authz.request.path import PathAnomaly
from authz.request.request import BadRequestError, BadRequestReason, Request
from authz.request.unreadable import UnreadableRequest
from authz.wire import CheckRequest

ANSWER_SECONDS: Final = 0.01
"""Kept back from the deadline, so that the answer reaches Envoy before it gives up without a reason."""

_OUTAGES: Final = frozenset({
    RefusalReason.KEYS_UNAVAILABLE, RefusalReason.SESSION_STORE_UNAVAILABLE, RefusalReason.OVERLOADED,
    RefusalReason.INTROSPECTION_UNAVAILABLE, RefusalReason.REVOCATIONS_UNAVAILABLE, RefusalReason.DEADLINE,
})  # fmt: skip
"""Refusals caused by an outage: the credential may be valid. They are answered with 503."""

_STATUS: Final = {
    # RFC 6750 section 3.1: more than one way to present a token is an invalid request.
    RefusalReason.CREDENTIALS_AMBIGUOUS: 400,
    RefusalReason.THROTTLED: 429,
}
"""The HTTP status of each refusal that is neither an outage (503) nor a rejected credential (401)."""

BAD_REQUEST: Final = {reason: Verdict(Outcome.DENY, reason.value, 400) for reason in BadRequestReason}
ODD_PATH: Final = {
    anomaly: Verdict(Outcome.DENY, f"path_{anomaly.name.lower()}", 400)
    for anomaly in PathAnomaly
    if anomaly.name
}
INTERNAL_ERROR: Final = Verdict(Outcome.ERROR, "internal_error", 503)


def _refused(reason: RefusalReason) -> Verdict:
    if reason in _OUTAGES:
        return Verdict(Outcome.ERROR, reason.value, 503)
    return Verdict(Outcome.DENY, reason.value, _STATUS.get(reason, 401))


REFUSED: Final = {reason: _refused(reason) for reason in RefusalReason}


_LATE: Final = Refusal(RefusalReason.DEADLINE, "the deadline passed before the credential could be verified")

MAX_JUDGED: Final = 10_000
"""The most verdicts cached, about 200 bytes each: one for each caller and rule set that meet."""

MAX_RETRY_AFTER_SECONDS: Final = 3600
"""The longest Retry-After sent. It is bounded, because each value is a verdict of its own and is cached."""

_THROTTLED: Final = {
    seconds: replace(REFUSED[RefusalReason.THROTTLED], retry_after_seconds=seconds)
    for seconds in (*range(1, 60), *range(60, MAX_RETRY_AFTER_SECONDS + 1, 60))
}
"""The throttled verdict for each wait in seconds; waits above a minute are whole minutes, to have few."""


def _verdict(refusal: Refusal) -> Verdict:
    seconds = min(refusal.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
    if refusal.reason is not RefusalReason.THROTTLED or not seconds:
        return REFUSED[refusal.reason]
    return _THROTTLED[seconds if seconds < 60 else -(-seconds // 60) * 60]


class Decision(NamedTuple):
    """A verdict with the caller it concerns and the revision of the policy that reached it.

    This is a tuple because one is created per request, and a frozen dataclass takes three times as long.
    """

    verdict: Verdict
    id: str
    """Unique among all decisions; its length is fixed."""
    revision: str
    """The revision of the policy that decided."""
    identity: Identity = ANONYMOUS
    credential: str = ""
    """The kind of credential that was examined, accepted or not; empty when none was."""
    shadow: Verdict | None = None
    """What the shadow rules would have answered, if the outcome differs."""
    request: Request | None = None
    """The request that was judged; None for a message that could not be read as a request."""
    detail: str = ""
    """More about the reason, for operators only and without any credential; empty for an allow."""


_new: Final = tuple.__new__
"""Makes a named tuple of all its fields, for half of what its own constructor costs."""

ID_BYTES: Final = 12
"""The number of bytes in a decision id, which is written in hexadecimal digits."""


def decision_ids(random: Callable[[], float]) -> Callable[[], str]:
    """Return what gives the next id: 24 hexadecimal digits, half random per process, half a counter."""
    return _numbered(f"{int(random() * 2**48):012x}").__next__


def _numbered(prefix: str) -> Iterator[str]:
    """Yield `prefix` with a counter of 12 digits; the last three are not formatted again for each id."""
    last_digits = [f"{number:03x}" for number in range(0x1000)]
    for block in count():
        beginning = f"{prefix}{block:09x}"
        for digits in last_digits:
            yield beginning + digits


class Authorizer:
    """Decides requests by a policy and the credentials it trusts. Replaced as a whole when either changes."""

    __slots__ = ("_authenticator", "_judged", "_new_id", "policy")

    def __init__(self, policy: Policy, authenticator: Authenticator, new_id: Callable[[], str]) -> None:
        self.policy = policy
        self._authenticator = authenticator
        self._new_id = new_id
        # By identity of the objects. A value keeps its rule set alive, but not the caller, whose claims only
        # the bounds of the credential caches may keep: another caller may get the same address later.
        self._judged: dict[tuple[int, int], tuple[Verdict, RuleSet, ReferenceType[Identity]]] = {}

    def decide(
        self, request: Request, now: float, deadline: float | None = None
    ) -> Decision | Awaitable[Decision]:
        """Return the decision, or an awaitable of it if the credential needs I/O to verify.

        `now` is in unix seconds. `deadline` is the event-loop time until which the caller waits; None means
        forever. A decision that cannot be reached in time is an error, never an allow
        (Kuadrant/authorino#649).
        """
        path = request.path
        if self.policy.cors and request.method == "OPTIONS":
            verdict = preflight(self.policy, request)
            if verdict is not None:
                return self.decided(verdict, request=request)
        rule_set = self.policy.index.find(request.host, request.method, path.segments)
        if path.oddities:
            accepting = self._accepting(rule_set, request)
            if accepting is None:
                return self.decided(ODD_PATH[next(iter(path.oddities))], request=request)
            rule_set = accepting
        elif self.policy.matching is not EXACT:
            rule_set = self._in_other_spellings(rule_set, request)
        if rule_set.conditional:
            rule_set = rule_set.for_request(request, now)
        if rule_set.settled is not None:
            return self._decided_for(rule_set, ANONYMOUS, request, now)
        outcome = self._authenticator.authenticate(request, now)
        if isinstance(outcome, Identity):
            return self._decided_for(rule_set, outcome, request, now)
        if isinstance(outcome, Awaitable):
            return self._judge_later(rule_set, outcome, request, now, deadline)
        return self._judge(rule_set, outcome, request, now)

    def parts(self) -> Iterable[object]:
        """Return the remembered verdicts (`common.background.release`)."""
        return list(self._judged.values())

    def decided(
        self, verdict: Verdict, credential: str = "", request: Request | None = None, detail: str = ""
    ) -> Decision:
        """Return a decision with this verdict that names no caller."""
        revision = self.policy.revision
        return Decision(verdict, self._new_id(), revision, ANONYMOUS, credential, None, request, detail)

    def unreadable(self, message: CheckRequest, error: BadRequestError) -> Decision:
        """Return the decision about a message that cannot be judged as a request."""
        request = UnreadableRequest(message)
        return self.decided(BAD_REQUEST[error.reason], request=request, detail=error.detail)

    def _judge(self, rule_set: RuleSet, outcome: Authentication, request: Request, now: float) -> Decision:
        if outcome is None:
            return self._decided_for(rule_set, ANONYMOUS, request, now)
        if isinstance(outcome, Refusal):
            kind = outcome.kind.value if outcome.kind else ""
            if rule_set.optional and not (rule_set.denies and self._has_certificate(request)):
                return self._decided_for(rule_set, ANONYMOUS, request, now)._replace(credential=kind)
            return self.decided(rule_set.refused(_verdict(outcome)), kind, request, outcome.detail)
        return self._decided_for(rule_set, outcome, request, now)

    def _has_certificate(self, request: Request) -> bool:
        """Whether the caller has a client certificate that a deny rule may name, next to a bad credential.

        A client can omit every credential but its certificate, so a bad token must not hide the certificate.
        """
        if self.policy.credentials.mtls is None:
            return False
        return bool(request.peer_principal or request.header_values(FORWARDED_CERTIFICATE))

    async def _judge_later(
        self,
        rule_set: RuleSet,
        pending: Awaitable[Authentication],
        request: Request,
        now: float,
        deadline: float | None,
    ) -> Decision:
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline - ANSWER_SECONDS):
                outcome = await pending
        except TimeoutError:
            outcome = _LATE
        return self._judge(rule_set, outcome, request, now)

    def _decided_for(self, rule_set: RuleSet, identity: Identity, request: Request, now: float) -> Decision:
        if rule_set.judges_identity:
            known = self._judged.get((id(rule_set), id(identity)))
            if known is not None and known[2]() is identity:
                verdict = known[0]
            else:
                verdict = self._judge_identity(rule_set, identity, request, now)
        else:
            verdict = rule_set.judge(identity, request, now)
        shadow = None
        if rule_set.shadow is not None:
            would_be = rule_set.shadow.judge(identity, request, now)
            shadow = would_be if would_be.outcome is not verdict.outcome else None
        credential = "" if identity is ANONYMOUS else identity.credential
        allowed = verdict.outcome is Outcome.ALLOW
        detail = "" if allowed else shortfall(rule_set, verdict, identity, request, now)
        revision = self.policy.revision
        return _new(
            Decision, (verdict, self._new_id(), revision, identity, credential, shadow, request, detail)
        )

    def _judge_identity(self, rule_set: RuleSet, identity: Identity, request: Request, now: float) -> Verdict:
        """Judge a caller whose next requests to these rules get the same verdict, and remember it."""
        verdict = rule_set.judge(identity, request, now)
        if len(self._judged) >= MAX_JUDGED:
            del self._judged[next(iter(self._judged))]
        self._judged[id(rule_set), id(identity)] = verdict, rule_set, ref(identity)
        return verdict

    def _in_other_spellings(self, rule_set: RuleSet, request: Request) -> RuleSet:
        """Add the deny rules for paths that differ only in letter case or a trailing slash."""
        spellings = self.policy.matching.spellings(request.path) or ()
        index = self.policy.index
        return index.with_denials(rule_set, request.host, request.method, spellings[1:])

    def _accepting(self, rule_set: RuleSet, request: Request) -> RuleSet | None:
        """Return the rules for a path that different readers parse differently; None if no rule accepts it.

        Allow rules count if they opted in to every anomaly of the path. Deny rules always count, including
        those that cover another reading of the path.
        """
        path = request.path
        allows = [rule for rule in rule_set.allows if not path.oddities & ~rule.accepts]
        spellings = self.policy.matching.spellings(path) if allows else None
        if spellings is None:
            return None
        index = self.policy.index
        others = (index.find(request.host, request.method, segments).denies for segments in spellings[1:])
        return index.rule_set_of(chain(allows, rule_set.denies, *others))
