"""How the steps of a verification say no."""

from typing import NoReturn

from authz.credentials.keys import Key
from authz.identity import CredentialKind, Refusal, RefusalReason


class RefusedError(Exception):
    """A credential that does not hold; `refusal` says why. Never leaves `authz.credentials`."""

    def __init__(self, refusal: Refusal, *, kept: bool = True, key: Key | None = None) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.kept = kept
        """Whether it may be remembered: not what cost no work."""
        self.key = key
        """The key that it failed at: under another it may hold."""


def refuse_token(reason: RefusalReason, detail: str) -> NoReturn:
    """Ends the verification of a JWT."""
    raise RefusedError(Refusal(reason, detail, CredentialKind.JWT))
