"""May they? One request in, one decision out.

The order of the questions: is the request one that can be judged (else 400), which rules cover it,
do they settle it whoever asks, and only then: who asks. So a path that is open to anyone is answered
without looking at credentials, and a bad token there is no reason to refuse; the identity headers
are removed all the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import chain, count
from typing import Final, NamedTuple

from authz.credentials.mtls.verifier import HEADER as FORWARDED_CERTIFICATE
from authz.engine.cors import preflight
from authz.engine.shortfall import shortfall
from authz.policy.compile.compile import Policy
from authz.policy.index import RuleSet
from authz.policy.rule import Outcome, Verdict
from authz.policy.types.paths import EXACT
from authz.request.identity import ANONYMOUS, Authenticator, Identity, Refusal, RefusalReason
from authz.request.identity import Outcome as Authenticated
from authz.request.path import PathAnomaly
from authz.request.request import BadRequestError, BadRequestReason, Request
from authz.request.unreadable import UnreadableRequest
from protos.authz_pb2 import CheckRequest

ANSWER_SECONDS: Final = 0.01
"""Kept back from the deadline, so that the answer is with Envoy before Envoy gives up and cannot say why."""

_OUTAGES: Final = frozenset({
    RefusalReason.KEYS_UNAVAILABLE, RefusalReason.SESSION_STORE_UNAVAILABLE, RefusalReason.OVERLOADED,
    RefusalReason.INTROSPECTION_UNAVAILABLE, RefusalReason.REVOCATIONS_UNAVAILABLE, RefusalReason.DEADLINE,
})  # fmt: skip
"""Refusals that say nothing about the credential: it might be good."""

_STATUS: Final = {
    # RFC 6750 section 3.1: more than one way to present a token is an invalid request.
    RefusalReason.CREDENTIALS_AMBIGUOUS: 400,
    RefusalReason.THROTTLED: 429,
}
"""Of refusals that are neither an outage (503) nor simply a credential that is not accepted (401)."""

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


_LATE: Final = Refusal(RefusalReason.DEADLINE, "the call ended before what the credential needs had come")

MAX_RETRY_AFTER_SECONDS: Final = 3600
"""Who has to wait for longer asks again in an hour: each wait told is a verdict of its own, and kept."""

_THROTTLED: Final = {
    seconds: replace(REFUSED[RefusalReason.THROTTLED], retry_after_seconds=seconds)
    for seconds in (*range(1, 60), *range(60, MAX_RETRY_AFTER_SECONDS + 1, 60))
}
"""By seconds, from a minute on by whole minutes, so that there are few."""


def _verdict(refusal: Refusal) -> Verdict:
    seconds = min(refusal.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
    if refusal.reason is not RefusalReason.THROTTLED or not seconds:
        return REFUSED[refusal.reason]
    return _THROTTLED[seconds if seconds < 60 else -(-seconds // 60) * 60]


class Decision(NamedTuple):
    """What was decided, about whom, by which policy.

    A tuple, because one is made for each request, and a frozen dataclass takes three times as long.
    """

    verdict: Verdict
    id: str
    """Unique among all decisions, of a fixed length."""
    revision: str
    """Of the policy that decided."""
    identity: Identity = ANONYMOUS
    credential: str = ""
    """The kind of credential that was looked at, accepted or not; empty when none was."""
    shadow: Verdict | None = None
    """What the shadow rules would have answered, where that is another outcome."""
    request: Request | None = None
    """What was asked; None for what could not be read as a request."""
    detail: str = ""
    """More about the reason, for operators and never for the client; empty for an allow. No credential."""


ID_BYTES: Final = 12
"""Of a decision id, which is written in hexadecimal digits."""


class DecisionIds:
    """Ids of 24 hexadecimal digits: a random half per process, and a counter. About 0.2 us each."""

    __slots__ = ("_next", "_prefix")

    def __init__(self, random: Callable[[], float]) -> None:
        self._prefix = f"{int(random() * 2**48):012x}"
        self._next = count().__next__

    def __call__(self) -> str:
        """The next id."""
        return f"{self._prefix}{self._next():012x}"


class Authorizer:
    """A policy and the credentials it trusts, in service. Replaced as a whole when either changes."""

    __slots__ = ("_authenticator", "_new_id", "policy")

    def __init__(self, policy: Policy, authenticator: Authenticator, new_id: Callable[[], str]) -> None:
        self.policy = policy
        self._authenticator = authenticator
        self._new_id = new_id

    def decide(
        self, request: Request, now: float, deadline: float | None = None
    ) -> Decision | Awaitable[Decision]:
        """The decision at once, or an awaitable of it only where a credential must be waited for.

        `now`: unix seconds. `deadline`: until when the caller waits for the answer, on the clock of
        the event loop; None: for ever. A decision that cannot be reached in time is an error, never
        an allow (Kuadrant/authorino#649).
        """
        path = request.path
        if self.policy.cors and request.method == "OPTIONS":
            verdict = preflight(self.policy, request)
            if verdict is not None:
                return self.decided(verdict, request=request)
        cell = self.policy.index.find(request.host, request.method, path.segments)
        if path.oddities:
            accepting = self._accepting(cell, request)
            if accepting is None:
                return self.decided(ODD_PATH[next(iter(path.oddities))], request=request)
            cell = accepting
        elif self.policy.matching is not EXACT:
            cell = self._in_other_spellings(cell, request)
        if cell.conditional:
            cell = cell.narrow(request, now)
        if cell.settled is not None:
            return self._decided_for(cell, ANONYMOUS, request, now)
        outcome = self._authenticator.authenticate(request, now)
        if isinstance(outcome, Identity):
            return self._decided_for(cell, outcome, request, now)
        if isinstance(outcome, Awaitable):
            return self._judge_later(cell, outcome, request, now, deadline)
        return self._judge(cell, outcome, request, now)

    def decided(
        self, verdict: Verdict, credential: str = "", request: Request | None = None, detail: str = ""
    ) -> Decision:
        """A decision that concerns nobody in particular."""
        return Decision(
            verdict, self._new_id(), self.policy.revision, ANONYMOUS, credential, None, request, detail
        )

    def unreadable(self, message: CheckRequest, error: BadRequestError) -> Decision:
        """The decision about a message that makes no request which could be judged."""
        request = UnreadableRequest(message)
        return self.decided(BAD_REQUEST[error.reason], request=request, detail=error.detail)

    def _judge(self, cell: RuleSet, outcome: Authenticated, request: Request, now: float) -> Decision:
        if outcome is None:
            return self._decided_for(cell, ANONYMOUS, request, now)
        if isinstance(outcome, Refusal):
            kind = outcome.kind.value if outcome.kind else ""
            if cell.optional and not (cell.denies and self._has_certificate(request)):
                return self._decided_for(cell, ANONYMOUS, request, now)._replace(credential=kind)
            return self.decided(cell.refused(_verdict(outcome)), kind, request, outcome.detail)
        return self._decided_for(cell, outcome, request, now)

    def _has_certificate(self, request: Request) -> bool:
        """Whether the caller is somebody without its credential, too, and a deny rule may be about that one.

        A client can leave every credential out but its certificate. A bad token must not do that for it.
        """
        if self.policy.credentials.mtls is None:
            return False
        return bool(request.peer_principal or request.header_values(FORWARDED_CERTIFICATE))

    async def _judge_later(
        self,
        cell: RuleSet,
        pending: Awaitable[Authenticated],
        request: Request,
        now: float,
        deadline: float | None,
    ) -> Decision:
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline - ANSWER_SECONDS):
                outcome = await pending
        except TimeoutError:
            outcome = _LATE
        return self._judge(cell, outcome, request, now)

    def _decided_for(self, cell: RuleSet, identity: Identity, request: Request, now: float) -> Decision:
        verdict = cell.judge(identity, request, now)
        shadow = None
        if cell.shadow is not None:
            would_be = cell.shadow.judge(identity, request, now)
            shadow = would_be if would_be.outcome is not verdict.outcome else None
        credential = "" if identity is ANONYMOUS else identity.kind.value
        detail = "" if verdict.outcome is Outcome.ALLOW else shortfall(cell, verdict, identity, request, now)
        return Decision(
            verdict, self._new_id(), self.policy.revision, identity, credential, shadow, request, detail
        )

    def _in_other_spellings(self, cell: RuleSet, request: Request) -> RuleSet:
        """The cell with the deny rules for what is another path only in letter case or a slash at its end."""
        spellings = self.policy.matching.spellings(request.path) or ()
        index = self.policy.index
        return index.with_denials(cell, request.host, request.method, spellings[1:])

    def _accepting(self, cell: RuleSet, request: Request) -> RuleSet | None:
        """The rules for a path that readers differ about; None when none of them accepts that.

        Allow rules count if they opted in to all that is odd. Deny rules count always, and also
        those that cover another reading of the path.
        """
        path = request.path
        allows = [rule for rule in cell.allows if not path.oddities & ~rule.accepts]
        spellings = self.policy.matching.spellings(path) if allows else None
        if spellings is None:
            return None
        index = self.policy.index
        others = (index.find(request.host, request.method, segments).denies for segments in spellings[1:])
        return index.cell_of(chain(allows, cell.denies, *others))
