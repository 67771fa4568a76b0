"""What verifies one kind of credential."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from authz.request.identity import Identity, Refusal

Verified = Identity | Refusal

ThrottleCheck = Callable[[], Refusal | None]
"""Asks whether the caller is to be refused unseen by now; None: not so."""


def no_throttle() -> None:
    """Where nothing is throttled."""


class Verifier(Protocol):
    """Verifies one kind of credential: from memory where it can, so that only the rest costs anything."""

    def known(self, credential: str, now: float) -> Verified | None:
        """What is known of the credential already; None where it has to be verified."""

    def verify(
        self, credential: str, now: float, throttle_check: ThrottleCheck = no_throttle
    ) -> Verified | Awaitable[Verified]:
        """The identity that it proves, or why it proves none; an awaitable where that must be waited for.

        Who makes callers wait in line asks `throttle_check` when it is their turn.
        """

    def unverified_subject(self, credential: str) -> str:
        """The subject that it names, unproven, for the throttle; empty where it names none."""
