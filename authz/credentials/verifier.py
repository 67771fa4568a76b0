"""What verifies one kind of credential."""

from collections.abc import Awaitable
from typing import Protocol

from authz.identity import Identity, Refusal

Verified = Identity | Refusal


class Verifier(Protocol):
    """Verifies one kind of credential: from memory where it can, so that only the rest costs anything."""

    def known(self, credential: str, now: float) -> Verified | None:
        """What is known of the credential already; None where it has to be verified."""

    def verify(self, credential: str, now: float) -> Verified | Awaitable[Verified]:
        """The identity that it proves, or why it proves none; an awaitable where that must be waited for."""

    def claimed(self, credential: str) -> str:
        """The subject that it names, unproven, for the throttle; empty where it names none."""
