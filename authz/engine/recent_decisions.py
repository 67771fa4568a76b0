"""Keeps the last decisions, so that operators can find out why a request was refused a minute ago."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from authz.engine.decision_question import question_of
from authz.engine.decision_record import DecisionRecord, Masking
from authz.policy.rule import Outcome

MAX_SHOWN: Final = 1_000
"""The most decisions in one response: about 500 KB of JSON."""

DEFAULT_SHOWN: Final = 100
"""The number of decisions in the response to a request without a limit."""

OUTCOMES: Final = {
    "allow": Outcome.ALLOW,
    "allowed": Outcome.ALLOW,
    "deny": Outcome.DENY,
    "denied": Outcome.DENY,
    "error": Outcome.ERROR,
    "preflight": Outcome.PREFLIGHT,
}
"""The accepted values of the `outcome` filter."""


RECORDS_IN_A_TURN: Final = 500
"""Records looked at before an event loop may do other work: about 0.1 ms."""

SHOWN_COSTS: Final = 50
"""As many records can be looked at while one is made ready to be shown."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters; an empty one matches every record."""

    decision_id: str = ""
    request_id: str = ""
    outcome: Outcome | None = None
    rule: str = ""
    subject: str = ""
    reason: str = ""
    limit: int = DEFAULT_SHOWN

    def matches(self, record: DecisionRecord) -> bool:
        """Whether the record matches every filter."""
        verdict = record.verdict
        return (
            (not self.decision_id or record.id == self.decision_id)
            and (not self.request_id or record.request_id == self.request_id)
            and (self.outcome is None or verdict.outcome is self.outcome)
            and (not self.rule or verdict.rule == self.rule)
            and (not self.subject or record.identity.subject == self.subject)
            and (not self.reason or verdict.reason == self.reason)
        )


class RecentDecisions:
    """A ring buffer of records: a new one replaces the oldest. `keep` costs one append."""

    __slots__ = ("_masking", "_ring", "keep")

    def __init__(self, capacity: int, masking: Masking) -> None:
        self._ring: deque[DecisionRecord] = deque(maxlen=capacity)
        self._masking = masking
        self.keep = self._ring.append
        """Store a record."""

    def __len__(self) -> int:
        return len(self._ring)

    def find(self, wanted: Wanted) -> Iterator[dict[str, Any] | None]:
        """Yield the newest records that match every filter, newest first and masked.

        After each RECORDS_IN_A_TURN that were looked at, where one that matches counts as SHOWN_COSTS, it
        yields None: an event loop may do other work then.
        """
        found = looked_at = 0
        # A copy, since records may be added between two of them.
        for record in reversed(tuple(self._ring)):
            looked_at += 1
            if wanted.matches(record):
                yield self._masking.to_dict(record)
                looked_at += SHOWN_COSTS
                found += 1
                if found >= wanted.limit:
                    return
            if looked_at >= RECORDS_IN_A_TURN:
                looked_at = 0
                yield None

    def question(self, decision_id: str) -> Iterator[dict[str, Any] | None]:
        """Yield the request and the caller of a decision, as for `sidecars policy explain --request`.

        Yields nothing if it is not kept; None as `find` does. Masked, and without what is not recorded:
        headers, query, body and claims.
        """
        for number, record in enumerate(reversed(tuple(self._ring)), 1):
            if record.id == decision_id:
                yield question_of(record, self._masking)
                return
            if number % RECORDS_IN_A_TURN == 0:
                yield None
