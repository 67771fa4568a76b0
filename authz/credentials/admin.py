"""Sessions and revocations as operators handle them: plain values in, plain values out."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, Final

from authz.credentials.revocation.revocation_list import Revocation, Revocations, Revoked
from authz.credentials.session.model import Session, SessionTooLargeError, key_of
from authz.credentials.session.verifier import Sessions
from authz.request.plain_text import is_plain

MAX_LISTED: Final = 1000
"""Sessions or revocations in one answer."""

NOW: Final = "now"
"""Stands for a time that the store tells."""

AHEAD_SECONDS: Final = 300.0
"""How far a clock may be ahead of ours."""

_KEY_CHARACTERS: Final = 64
"""An id is a SHA-256 in hex: longer than any token that `Sessions` makes, which has 43 characters."""

_SESSION_TARGETS: Final = frozenset({"token", "id", "subject", "before"})
_TOKEN_TARGETS: Final = frozenset(Revoked)


class CredentialAdminError(ValueError):
    """A wish that makes no sense, or that the configuration has no place for."""


class CredentialAdmin:
    """What may be done by hand. Every method raises StoreUnavailableError and DeskError."""

    def __init__(
        self, sessions: Sessions | None, revocations: Revocations | None, wall_clock: Callable[[], float]
    ) -> None:
        self._sessions_or_none = sessions
        self._revocations_or_none = revocations
        self._wall_clock = wall_clock

    async def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`token`, which is shown this once, and `id`. Raises StoreFullError."""
        if not subject:
            raise CredentialAdminError("a session needs a subject")
        for text in (subject, *scopes, *roles):
            _check_text(text)
            if not is_plain(text):
                raise CredentialAdminError(f"{text!r} holds control characters, or blanks around it")
        try:
            token = await self._sessions.create(
                subject, self._wall_clock(), scopes=tuple(scopes), roles=tuple(roles), claims=claims
            )
        except SessionTooLargeError as error:
            raise CredentialAdminError(str(error)) from None
        return {"token": token, "id": key_of(token)}

    async def show_session(self, name: str) -> dict[str, Any] | None:
        """The session of a token or an id; None where there is none."""
        found = await self._sessions.store.read([_key(name)])
        now = self._wall_clock()
        return next((_shown(key, kept) for key, kept in found if kept.over_at > now), None)

    async def list_sessions(self, subject: str | None, limit: int = MAX_LISTED) -> list[dict[str, Any]]:
        """The sessions of `subject`, or of all; MAX_LISTED at most."""
        _check_text(subject or "")
        found = await self._sessions.find(subject, max(1, min(limit, MAX_LISTED)))
        return [_shown(key, kept) for key, kept in found]

    async def revoke_sessions(self, target: str, value: Any) -> int:
        """End sessions by `token`, `id`, `subject` or `before` (unix seconds, or `now`: all that there are).

        Returns how many there were.
        """
        if target == "before":
            before = inf if value == NOW else _time(value, self._wall_clock())
            return await self._sessions.revoke_before(before)
        if target not in _SESSION_TARGETS or not isinstance(value, str) or not value:
            raise CredentialAdminError(f"name one of {', '.join(sorted(_SESSION_TARGETS))}")
        _check_text(value)
        if target == "subject":
            return await self._sessions.revoke_subject(value)
        return await self._sessions.revoke_keys([_key(value)])

    async def revoke_tokens(self, target: str, value: Any, issuer: str = "") -> dict[str, Any]:
        """Refuse tokens by `jti`, `sid`, `sub` or `before` (unix seconds, or `now`); the revocation.

        By `sub` it concerns what was issued until now: by the time of the store, not of whoever asks, and
        with the leeway, since the clock of an issuer may be ahead. Raises RevocationsFullError.
        """
        if target not in _TOKEN_TARGETS or not isinstance(issuer, str):
            raise CredentialAdminError(f"name one of {', '.join(sorted(_TOKEN_TARGETS))}")
        kind, revocations = Revoked(target), self._revocations
        if kind is not Revoked.EVERYTHING and (not isinstance(value, str) or not value):
            raise CredentialAdminError(f"{target} needs a text")
        for text in (value, issuer):
            _check_text(text if isinstance(text, str) else "")
        now, before = await revocations.now(), inf
        by_now = now + revocations.config.leeway_seconds
        if kind is Revoked.SUBJECT:
            before = by_now
        elif kind is Revoked.EVERYTHING:
            before, value = by_now if value == NOW else _time(value, now), ""
        # From `before` on, where that is ahead: until then what it concerns may be issued.
        from_then_on = max(now, before) if isfinite(before) else now
        until = from_then_on + revocations.config.retention_seconds
        revocation = Revocation(kind, value, until, before, issuer)
        await revocations.revoke(revocation)
        return _shown_revocation(revocation)

    async def list_revocations(self) -> list[dict[str, Any]]:
        """What is revoked; MAX_LISTED at most."""
        store = self._revocations.store
        if store is None:
            found = self._revocations.entries
        else:
            now = await store.now()
            found = [one for one in await store.load(self._revocations.config.max_entries) if one.until > now]
        return [_shown_revocation(revocation) for revocation in found[:MAX_LISTED]]

    async def clean_revocations(self) -> list[str]:
        """Remove entries that cannot be read, which keep every token out; what they were."""
        store = self._revocations.store
        return [] if store is None else await store.clean()

    @property
    def _sessions(self) -> Sessions:
        if self._sessions_or_none is None:
            raise CredentialAdminError("the policy has no sessions")
        return self._sessions_or_none

    @property
    def _revocations(self) -> Revocations:
        if self._revocations_or_none is None:
            raise CredentialAdminError("the policy has no revocations block")
        return self._revocations_or_none


def _key(name: str) -> str:
    if len(name) == _KEY_CHARACTERS and all(character in "0123456789abcdef" for character in name):
        return name
    return key_of(name)


def _check_text(text: str) -> None:
    """Raises DeskError for what no token says, as JSON is UTF-8: bytes of a command line that are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CredentialAdminError(f"{text!r} is no text in UTF-8") from None


def _time(value: Any, now: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise CredentialAdminError("before is a time in unix seconds")
    if value > now + AHEAD_SECONDS:
        raise CredentialAdminError("before is in the future: it would refuse what is issued from now on")
    return float(value)


def _shown(key: str, session: Session) -> dict[str, Any]:
    return {
        "id": key,
        "subject": session.subject,
        "created_at": session.created_at,
        "idle_until": session.idle_until,
        "ends_at": session.ends_at,
        "scopes": list(session.scopes),
        "roles": list(session.roles),
        "claims": dict(session.claims),
    }


def _shown_revocation(revocation: Revocation) -> dict[str, Any]:
    return {
        "kind": revocation.kind.value,
        "value": revocation.value,
        "issuer": revocation.issuer,
        "before": None if revocation.before == float("inf") else revocation.before,
        "until": revocation.until,
    }
