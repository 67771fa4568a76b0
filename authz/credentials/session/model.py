"""Sessions, which an opaque token names and a store holds.

The key in the store is the SHA-256 of the token, so that a reader of the store cannot take over a session.
"""

import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import orjson

from authz.request.identity import CredentialKind, Identity

TOKEN_BYTES: Final = 32
"""256 random bits (OWASP asks for 64 at least)."""

VERSION: Final = 1
"""The format of a stored session. A session of another one is logged, and unknown to the caller."""

MAX_RECORD_BYTES: Final = 64 * 1024
"""The largest session stored or read: a session holds claims, not documents."""


class SessionTooLargeError(ValueError):
    """The session is larger than MAX_RECORD_BYTES."""


class StoreFullError(Exception):
    """The store holds the most sessions allowed."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session in the store. Times are in unix seconds."""

    subject: str
    created_at: float
    idle_until: float
    ends_at: float
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over_at(self) -> float:
        """When the session ends unless it is used."""
        return min(self.idle_until, self.ends_at)

    def identity(self) -> Identity:
        """Return the identity of its owner."""
        return Identity(
            kind=CredentialKind.SESSION,
            subject=self.subject,
            scopes=frozenset(self.scopes),
            roles=frozenset(self.roles),
            claims=self.claims,
            expires_at=self.over_at,
        )

    def used(self, now: float, idle_timeout_seconds: float) -> "Session":
        """Return the session after a use at `now`. Its absolute end stays."""
        return replace(self, idle_until=min(now + idle_timeout_seconds, self.ends_at))

    def to_json(self) -> bytes:
        """Return the value for the store."""
        return orjson.dumps(
            {
                "version": VERSION,
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
        """Return the session in a value of the store. Raises ValueError if the value is not a session."""
        if len(value) > MAX_RECORD_BYTES:
            raise ValueError("larger than a session may be")
        content: Any = orjson.loads(value)
        try:
            # Sessions from before the key was written have version 1.
            if content.get("version", 1) != VERSION:
                raise ValueError(
                    f"it has version {content['version']!r} of the format, this program reads {VERSION}"
                )
            claims = content["claims"]
            if not isinstance(claims, dict):
                raise TypeError("its claims are not an object")
            session = cls(
                subject=_text(content["subject"]),
                created_at=float(content["created_at"]),
                idle_until=float(content["idle_until"]),
                ends_at=float(content["ends_at"]),
                scopes=tuple(content["scopes"]),
                roles=tuple(content["roles"]),
                claims=claims,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a session: {error}") from error
        return session


ENDED: Final = Session("(ended)", 0.0, 0.0, 0.0)
"""A sentinel, compared by identity: a session that has ended, whose content is gone."""


class SessionStore(Protocol):
    """Stores sessions by the hash of their token.

    Every method raises StoreUnavailableError, when called or when awaited.
    """

    def get(self, key: str) -> Session | Awaitable[Session | None] | None:
        """Return the session, ENDED or None; an awaitable of it if the store is remote."""

    async def put(self, key: str, session: Session, now: float) -> None:
        """Store `session` until it ends. Raises StoreFullError."""

    async def renew(self, sessions: Mapping[str, Session], now: float) -> None:
        """Write renewed sessions. A session that was revoked stays revoked."""

    async def revoke(self, keys: Sequence[str]) -> int:
        """Delete these sessions, tell every sidecar, and return how many there were."""

    async def keys(self, subject: str | None) -> list[str]:
        """Return the keys of the sessions of `subject`, or of all for None; some may have ended."""

    async def read(self, keys: Sequence[str]) -> list[tuple[str, Session]]:
        """Return the existing sessions among these keys."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("its subject is not a text")
    return value


def key_of(token: str) -> str:
    """Return the store key of the session with this token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
