"""The operations on sessions and revocations that operators use: plain values in, plain values out."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, Final

from authz.credentials.revocation.revocation_list import Revocation, Revocations, Revoked
from authz.credentials.session.model import Session, SessionTooLargeError, key_of
from authz.credentials.session.verifier import Sessions
from authz.request.plain_text import is_plain

MAX_LISTED: Final = 1000
"""The most sessions or revocations in one answer."""

NOW: Final = "now"
"""The value of `before` that means the current time of the store."""

AHEAD_SECONDS: Final = 300.0
"""How far the clock of an operator may be ahead of this one."""

_KEY_CHARACTERS: Final = 64
"""The length of a session id, a SHA-256 in hex. A token of `Sessions` has 43 characters only."""

_SESSION_TARGETS: Final = frozenset({"token", "id", "subject", "before"})
_TOKEN_TARGETS: Final = frozenset(Revoked)


class CredentialAdminError(ValueError):
    """An operation that makes no sense, or that the configuration does not support."""


class CredentialAdmin:
    """What operators may do by hand. Every method raises StoreUnavailableError and CredentialAdminError."""

    def __init__(
        self, sessions: Sessions | None, revocations: Revocations | None, wall_clock: Callable[[], float]
    ) -> None:
        self._sessions_or_none = sessions
        self._revocations_or_none = revocations
        self._wall_clock = wall_clock

    async def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Create a session and return its `token`, which is shown only here, its `id`, and when it `ends_at`.

        Raises StoreFullError.
        """
        if not subject:
            raise CredentialAdminError("a session needs a subject")
        for text in (subject, *scopes, *roles):
            _check_text(text)
            if not is_plain(text):
                raise CredentialAdminError(f"{text!r} holds control characters, or blanks around it")
        try:
            now = self._wall_clock()
            token = await self._sessions.create(
                subject, now, scopes=tuple(scopes), roles=tuple(roles), claims=claims
            )
        except SessionTooLargeError as error:
            raise CredentialAdminError(str(error)) from None
        ends_at = now + self._sessions.config.absolute_timeout_seconds
        return {"token": token, "id": key_of(token), "ends_at": ends_at}

    async def show_session(self, name: str) -> dict[str, Any] | None:
        """Return the session of a token or an id; None if there is none."""
        found = await self._sessions.store.read([_key(name)])
        now = self._wall_clock()
        return next((_shown(key, kept) for key, kept in found if kept.over_at > now), None)

    async def list_sessions(self, subject: str | None, limit: int = MAX_LISTED) -> list[dict[str, Any]]:
        """Return the sessions of `subject`, or of every subject; MAX_LISTED at most."""
        _check_text(subject or "")
        found = await self._sessions.find(subject, max(1, min(limit, MAX_LISTED)))
        return [_shown(key, kept) for key, kept in found]

    async def revoke_sessions(self, target: str, value: Any) -> int:
        """End sessions by `token`, `id`, `subject` or `before` (unix seconds, or `now` for all of them).

        Returns how many sessions ended.
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
        """Revoke tokens by `jti`, `sid`, `sub` or `before` (unix seconds, or `now`). Returns the revocation.

        By `sub` it covers the tokens issued until now, by the clock of the store and not of the caller, plus
        the leeway, since the clock of an issuer may be ahead. Raises RevocationsFullError.
        """
        if target not in _TOKEN_TARGETS or not isinstance(issuer, str):
            raise CredentialAdminError(f"name one of {', '.join(sorted(_TOKEN_TARGETS))}")
        kind, revocations = Revoked(target), self._revocations
        if kind is not Revoked.ALL_BEFORE and (not isinstance(value, str) or not value):
            raise CredentialAdminError(f"{target} needs a text")
        for text in (value, issuer):
            _check_text(text if isinstance(text, str) else "")
        now, before = await revocations.now(), inf
        by_now = now + revocations.config.leeway_seconds
        if kind is Revoked.SUBJECT:
            before = by_now
        elif kind is Revoked.ALL_BEFORE:
            before, value = by_now if value == NOW else _time(value, now), ""
        # Counts from `before` if that is in the future: until then, tokens that it covers may be issued.
        from_then_on = max(now, before) if isfinite(before) else now
        until = from_then_on + revocations.config.retention_seconds
        revocation = Revocation(kind, value, until, before, issuer)
        await revocations.revoke(revocation)
        return _shown_revocation(revocation)

    async def list_revocations(self) -> list[dict[str, Any]]:
        """Return the revocations; MAX_LISTED at most."""
        store = self._revocations.store
        if store is None:
            found = self._revocations.entries
        else:
            now = await store.now()
            found = [one for one in await store.load(self._revocations.config.max_entries) if one.until > now]
        return [_shown_revocation(revocation) for revocation in found[:MAX_LISTED]]

    async def clean_revocations(self) -> list[str]:
        """Remove and return unreadable entries: while there are any, every token is refused."""
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
    """Raise CredentialAdminError for text that is not UTF-8, as bytes on a command line may be."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CredentialAdminError(f"{text!r} is not text in UTF-8") from None


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
