"""Sessions: an opaque token whose meaning only a store knows.

The store is keyed by the SHA-256 of the token: who reads the store cannot take over a session.
"""

import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import orjson

from authz.request.identity import CredentialKind, Identity

TOKEN_BYTES: Final = 32
"""256 random bits (OWASP asks for 64 at least)."""

MAX_RECORD_BYTES: Final = 64 * 1024
"""A session holds claims, not documents; a larger value in the store is not ours."""


class SessionTooLargeError(ValueError):
    """It holds more than would be read again."""


class StoreFullError(Exception):
    """The store holds as many sessions as it may."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the store knows of a session. Times in unix seconds."""

    subject: str
    created_at: float
    idle_until: float
    ends_at: float
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over_at(self) -> float:
        """When it ends if nobody uses it."""
        return min(self.idle_until, self.ends_at)

    def identity(self) -> Identity:
        """Who is behind it."""
        return Identity(
            kind=CredentialKind.SESSION,
            subject=self.subject,
            scopes=frozenset(self.scopes),
            roles=frozenset(self.roles),
            claims=self.claims,
            expires_at=self.over_at,
        )

    def used(self, now: float, idle_timeout_seconds: float) -> "Session":
        """The session after it was used at `now`. Its end stays."""
        return replace(self, idle_until=min(now + idle_timeout_seconds, self.ends_at))

    def to_json(self) -> bytes:
        """The value in the store."""
        return orjson.dumps(
            {
                "subject": self.subject,
                "created_at": self.created_at,
                "idle_until": self.idle_until,
                "ends_at": self.ends_at,
                "scopes": self.scopes,
                "roles": self.roles,
                "claims": self.claims,
            }
        )

    @classmethod
    def from_json(cls, value: bytes) -> "Session":
        """The session in a value of the store. Raises ValueError when it is none."""
        if len(value) > MAX_RECORD_BYTES:
            raise ValueError("larger than a session may be")
        content: Any = orjson.loads(value)
        try:
            claims = content["claims"]
            if not isinstance(claims, dict):
                raise TypeError("its claims are no object")
            session = cls(
                subject=_text(content["subject"]),
                created_at=float(content["created_at"]),
                idle_until=float(content["idle_until"]),
                ends_at=float(content["ends_at"]),
                scopes=tuple(content["scopes"]),
                roles=tuple(content["roles"]),
                claims=claims,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a session: {error}") from error
        return session


ENDED: Final = Session("nobody any more", 0.0, 0.0, 0.0)
"""Stands for a session that there was, and of which nothing more is known."""


class SessionStore(Protocol):
    """Keeps sessions by the hash of their token.

    Every method raises StoreUnavailableError, at once or when awaited.
    """

    def get(self, key: str) -> Session | Awaitable[Session | None] | None:
        """The session, or ENDED; an awaitable where the store is elsewhere."""

    async def put(self, key: str, session: Session, now: float) -> None:
        """Keep `session` until it is over. Raises StoreFullError."""

    async def renew(self, sessions: Mapping[str, Session], now: float) -> None:
        """Write what use has changed. A session that was revoked meanwhile stays so."""

    async def revoke(self, keys: Sequence[str]) -> int:
        """Forget these sessions and tell every sidecar; how many there were."""

    async def keys(self, subject: str | None) -> list[str]:
        """The keys of all sessions, or of those of `subject`; perhaps some that are gone or over."""

    async def read(self, keys: Sequence[str]) -> list[tuple[str, Session]]:
        """The sessions of these keys that there are."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("its subject is no text")
    return value


def key_of(token: str) -> str:
    """The key of the session in the store."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
