"""The interface of a verifier, one for each kind of credential."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from authz.request.identity import Identity, Refusal

Verified = Identity | Refusal

ThrottleCheck = Callable[[], Refusal | None]
"""Returns a refusal if the caller has failed too often by now, else None."""


def no_throttle() -> None:
    """Return None: nothing is throttled."""


class Verifier(Protocol):
    """Verifies one kind of credential, from a cache if possible."""

    def cached(self, credential: str, now: float) -> Verified | None:
        """Return the cached outcome; None if the credential has to be verified."""

    def verify(
        self, credential: str, now: float, throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """Return the identity or the refusal, or an awaitable of it if something must be fetched.

        A verifier that queues callers calls `throttle_check` again before it verifies.
        """

    def unverified_subject(self, credential: str) -> str:
        """Return the unverified subject of the credential, for the throttle; empty if it has none."""
