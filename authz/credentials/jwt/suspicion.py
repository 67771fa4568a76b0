"""Holds charges for failed signatures until a fetch shows whether their key is still in use."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from authz.credentials.jwt.key_set import Key

MAX_SUSPICIONS: Final = 1_000
"""The most charges that wait for one key set, 0.5 KB each. Beyond that, failures are charged at once."""

Charge = Callable[[], None]
"""Charges the client that sent the token."""


class _Suspicion(NamedTuple):
    key: Key
    begun: int
    charge: Charge


class Suspicions:
    """Charges that wait. A charge is due once a later fetch has brought the same key again."""

    def __init__(self) -> None:
        self._waiting: deque[_Suspicion] = deque()
        self._begun = 0
        """The number of fetches begun."""
        self._answered = 0
        """The number of the last fetch that succeeded."""

    def of(self, key: Key) -> Callable[[Charge], None]:
        """Return a function that accepts the charge for a signature by `key` that has just failed."""
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
        """Note that a fetch begins."""
        self._begun += 1

    def fetch_succeeded(self) -> None:
        """Note that the last fetch succeeded, and settle the charges that wait for it."""
        self._answered = self._begun
        while self._waiting and self._waiting[0].begun < self._answered:
            found = self._waiting.popleft()
            _settle(found.key, found.charge)

    def __len__(self) -> int:
        return len(self._waiting)


def _settle(key: Key, charge: Charge) -> None:
    if key.trusted:
        charge()
