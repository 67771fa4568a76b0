"""Callers, for the tests of authz: the library's own types, with no token to verify."""

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
    """An authenticator that answers what it was made with, and remembers how often it was asked."""

    def __init__(self, outcome: Authentication | Awaitable[Authentication]) -> None:
        self.outcome = outcome
        self.times = 0

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        self.times += 1
        return self.outcome
