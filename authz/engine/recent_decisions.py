"""The last decisions, for whoever asks why a request was refused a minute ago."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from authz.engine.decision_record import DecisionRecord, Masking
from authz.policy.rule import Outcome

MAX_SHOWN: Final = 1_000
"""In one answer, however many are asked for: about 500 KB of JSON."""

DEFAULT_SHOWN: Final = 100
"""Decisions in an answer to a request without a limit."""

OUTCOMES: Final = {
    "allow": Outcome.ALLOW,
    "allowed": Outcome.ALLOW,
    "deny": Outcome.DENY,
    "denied": Outcome.DENY,
    "error": Outcome.ERROR,
    "preflight": Outcome.PREFLIGHT,
}
"""What may be asked for as `outcome`."""


class RecentDecisions:
    """A ring of accounts: a new one takes the place of the oldest. `keep` costs one append."""

    __slots__ = ("_masking", "_ring", "keep")

    def __init__(self, capacity: int, masking: Masking) -> None:
        self._ring: deque[DecisionRecord] = deque(maxlen=capacity)
        self._masking = masking
        self.keep = self._ring.append
        """Keep an account."""

    def __len__(self) -> int:
        return len(self._ring)

    def find(
        self,
        *,
        decision_id: str = "",
        request_id: str = "",
        outcome: str = "",
        rule: str = "",
        limit: int = DEFAULT_SHOWN,
    ) -> list[dict[str, Any]]:
        """The newest accounts that have all that is asked for (empty: anything), newest first, masked.

        Raises ValueError for an outcome that there is not.
        """
        wanted = None
        if outcome:
            wanted = OUTCOMES.get(outcome)
            if wanted is None:
                raise ValueError(f"outcome is one of {', '.join(OUTCOMES)}")
        found = []
        for record_of in self._newest_first():
            if (
                (not decision_id or record_of.id == decision_id)
                and (not request_id or record_of.request_id == request_id)
                and (wanted is None or record_of.verdict.outcome is wanted)
                and (not rule or record_of.verdict.rule == rule)
            ):
                found.append(record_of)
                if len(found) >= min(limit, MAX_SHOWN):
                    break
        return [self._masking.tell(record_of) for record_of in found]

    def _newest_first(self) -> Iterator[DecisionRecord]:
        return reversed(self._ring)
