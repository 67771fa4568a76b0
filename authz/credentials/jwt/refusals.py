"""The error by which the steps of a verification refuse a credential."""

from dataclasses import replace
from typing import NoReturn

from authz.credentials.jwt.key_set import Key
from authz.request.identity import CredentialKind, Refusal, RefusalReason


class RefusedError(Exception):
    """The credential is refused; `refusal` says why. Never leaves `authz.credentials`."""

    def __init__(self, refusal: Refusal, *, kept: bool = True, key: Key | None = None) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.kept = kept
        """Whether the refusal may be cached: False if it cost no work."""
        self.key = key
        """The key with which verification failed; with another it may succeed."""

    def of_issuer(self, issuer: str) -> "RefusedError":
        """Return the error with the issuer of the token in its detail."""
        named = f" (issuer {issuer})"
        refusal = replace(self.refusal, detail=self.refusal.detail.removesuffix(named) + named)
        return RefusedError(refusal, kept=self.kept, key=self.key)


def refuse_token(reason: RefusalReason, detail: str) -> NoReturn:
    """End the verification of a JWT: raise RefusedError."""
    raise RefusedError(Refusal(reason, detail, CredentialKind.JWT))
