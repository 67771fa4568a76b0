"""The outcome of authentication as rules see it: an identity, a refusal or none."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from authz.request.plain_text import is_plain
from authz.request.request import Request


class CredentialKind(StrEnum):
    """The kind of credential that proves an identity; also the metric label `credential`."""

    JWT = "jwt"
    SESSION = "session"
    API_KEY = "api_key"
    MTLS = "mtls"
    INTROSPECTION = "introspection"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Identity:
    """A verified caller. Immutable and shared between requests by the cache."""

    kind: CredentialKind
    subject: str
    issuer: str = ""
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    """The audiences (`aud`) that a token was issued for."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float | None = None
    """Unix seconds after which the identity no longer holds."""
    plain: bool = field(init=False, repr=False, compare=False)
    """Whether the subject has no control characters or outer blanks; computed once, used per request."""
    credential: str = field(init=False, repr=False, compare=False)
    """The value of `kind` as plain text: the hash of a member of an enumeration costs a Python call."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", is_plain(self.subject))
        object.__setattr__(self, "credential", self.kind.value)


ANONYMOUS: Final = Identity(CredentialKind.ANONYMOUS, "")


class RefusalReason(StrEnum):
    """Why a credential was not accepted: the value of `reason` in metrics, metadata and logs.

    The credential modules own this list; the docs explain each value.
    """

    TOKEN_MALFORMED = "token_malformed"
    TOKEN_TOO_LONG = "token_too_long"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    TOKEN_SIGNATURE = "token_signature"
    TOKEN_ALGORITHM = "token_algorithm"
    TOKEN_TYPE = "token_type"
    ISSUER_UNKNOWN = "issuer_unknown"
    AUDIENCE_MISMATCH = "audience_mismatch"
    TOKEN_LIFETIME = "token_lifetime"
    TOKEN_INACTIVE = "token_inactive"
    CLAIM_MISSING = "claim_missing"
    CLAIM_FORBIDDEN = "claim_forbidden"
    SUBJECT_MALFORMED = "subject_malformed"
    KEY_UNKNOWN = "key_unknown"
    KEY_RETIRED = "key_retired"
    KEYS_UNAVAILABLE = "keys_unavailable"
    SESSION_UNKNOWN = "session_unknown"
    SESSION_EXPIRED = "session_expired"
    SESSION_STORE_UNAVAILABLE = "session_store_unavailable"
    API_KEY_UNKNOWN = "api_key_unknown"
    API_KEY_EXPIRED = "api_key_expired"
    INTROSPECTION_UNAVAILABLE = "introspection_unavailable"
    PRINCIPAL_MALFORMED = "principal_malformed"
    PRINCIPAL_UNTRUSTED = "principal_untrusted"
    REVOKED = "revoked"
    REVOCATIONS_UNAVAILABLE = "revocations_unavailable"
    CREDENTIALS_AMBIGUOUS = "credentials_ambiguous"
    THROTTLED = "throttled"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A credential was presented and not accepted. `detail` is for operators, never for the client."""

    reason: RefusalReason
    detail: str = ""
    kind: CredentialKind | None = None
    retry_after_seconds: int = 0
    """Seconds until the same credential may be verified again; 0 if unknown."""
    once_final: Callable[[Callable[[], None]], None] | None = field(default=None, compare=False, repr=False)
    """Registers a callback for the time when the refusal is final; None if it already is."""


def named(identity: Identity) -> Identity | Refusal:
    """Return the identity, or a refusal if its subject has control characters or outer blanks.

    Such a subject is not simply omitted, because rate limits and log searches depend on it.
    """
    if identity.plain:
        return identity
    detail = "the subject has control characters or outer blanks"
    return Refusal(RefusalReason.SUBJECT_MALFORMED, detail, identity.kind)


Authentication = Identity | Refusal | None
"""None: the request carries no credential of any configured kind."""


class Authenticator(Protocol):
    """Finds and verifies the credential of a request."""

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        """Return the outcome, or an awaitable of it if I/O is needed. `now` is in unix seconds."""
