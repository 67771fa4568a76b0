"""How the steps of a verification say no."""

from dataclasses import replace
from typing import NoReturn

from authz.credentials.jwt.key_set import Key
from authz.request.identity import CredentialKind, Refusal, RefusalReason


class RefusedError(Exception):
    """A credential that does not hold; `refusal` says why. Never leaves `authz.credentials`."""

    def __init__(self, refusal: Refusal, *, kept: bool = True, key: Key | None = None) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.kept = kept
        """Whether it may be remembered: not what cost no work."""
        self.key = key
        """The key that it failed at: under another it may hold."""

    def of_issuer(self, issuer: str) -> "RefusedError":
        """The error with the issuer that the token has, or claims, in its detail."""
        named = f" (issuer {issuer})"
        refusal = replace(self.refusal, detail=self.refusal.detail.removesuffix(named) + named)
        return RefusedError(refusal, kept=self.kept, key=self.key)


def refuse_token(reason: RefusalReason, detail: str) -> NoReturn:
    """Ends the verification of a JWT."""
    raise RefusedError(Refusal(reason, detail, CredentialKind.JWT))
