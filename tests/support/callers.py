"""Callers for tests of authz: identities without tokens."""

from collections.abc import Awaitable

from authz.request.identity import Authentication, CredentialKind, Identity
from authz.request.request import Request

ALICE = Identity(
    CredentialKind.JWT,
    "alice",
    issuer="https://idp.example",
    scopes=frozenset({"users.read"}),
    roles=frozenset({"staff"}),
)


class Says:
    """An authenticator that returns a fixed outcome and counts its calls."""

    def __init__(self, outcome: Authentication | Awaitable[Authentication]) -> None:
        self.outcome = outcome
        self.times = 0

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        self.times += 1
        return self.outcome
