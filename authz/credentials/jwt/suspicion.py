"""Failed signatures, from the failure until a fetch shows whether their key is still in use."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from authz.credentials.jwt.key_set import Key

MAX_SUSPICIONS: Final = 1_000
"""Kept for one key set, 0.5 KB each. Beyond them a failed signature is charged at once, as for a file."""

Charge = Callable[[], None]
"""Charges the client that sent the token."""


class _Suspicion(NamedTuple):
    key: Key
    begun: int
    charge: Charge


class Suspicions:
    """Charges that wait. They are due once a fetch that began after them has brought the same key again."""

    def __init__(self) -> None:
        self._waiting: deque[_Suspicion] = deque()
        self._begun = 0
        """Fetches begun."""
        self._answered = 0
        """The last fetch that succeeded, by the same count."""

    def of(self, key: Key) -> Callable[[Charge], None]:
        """A function that takes the charge for a token whose signature by `key` has just failed."""
        begun = self._begun

        def once_final(charge: Charge) -> None:
            if self._answered > begun:
                _settle(key, charge)
            elif len(self._waiting) >= MAX_SUSPICIONS:
                charge()
            else:
                self._waiting.append(_Suspicion(key, begun, charge))

        return once_final

    def fetch_begins(self) -> None:
        """Count a fetch that begins."""
        self._begun += 1

    def fetch_succeeded(self) -> None:
        """The fetch that began last has shown which keys are in use: settle the charges that wait for it."""
        self._answered = self._begun
        while self._waiting and self._waiting[0].begun < self._answered:
            found = self._waiting.popleft()
            _settle(found.key, found.charge)

    def __len__(self) -> int:
        return len(self._waiting)


def _settle(key: Key, charge: Charge) -> None:
    if key.trusted:
        charge()
