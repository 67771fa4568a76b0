"""Keeps the last decisions, so that operators can find out why a request was refused a minute ago."""

from collections import deque
from collections.abc import Iterator
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

    def find(
        self,
        *,
        decision_id: str = "",
        request_id: str = "",
        outcome: str = "",
        rule: str = "",
        subject: str = "",
        reason: str = "",
        limit: int = DEFAULT_SHOWN,
    ) -> list[dict[str, Any]]:
        """Return the newest records that match every filter, newest first and masked.

        An empty filter matches every record. Raises ValueError for an unknown outcome, and for a subject
        where subjects are hidden.
        """
        if subject and self._masking.hides("subject"):
            raise ValueError("subject cannot be asked for: decisions.mask hides it")
        wanted = None
        if outcome:
            wanted = OUTCOMES.get(outcome)
            if wanted is None:
                raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
        found = []
        for record in self._newest_first():
            if (
                (not decision_id or record.id == decision_id)
                and (not request_id or record.request_id == request_id)
                and (wanted is None or record.verdict.outcome is wanted)
                and (not rule or record.verdict.rule == rule)
                and (not subject or record.identity.subject == subject)
                and (not reason or record.verdict.reason == reason)
            ):
                found.append(record)
                if len(found) >= min(limit, MAX_SHOWN):
                    break
        return [self._masking.to_dict(record) for record in found]

    def question(self, decision_id: str) -> dict[str, Any] | None:
        """Return the request and the caller of a decision, as for `sidecars policy explain --request`.

        None if it is not kept. Masked, and without what is not recorded: headers, query, body and claims.
        """
        found = (record for record in self._newest_first() if record.id == decision_id)
        record = next(found, None)
        return None if record is None else question_of(record, self._masking)

    def _newest_first(self) -> Iterator[DecisionRecord]:
        return reversed(self._ring)
