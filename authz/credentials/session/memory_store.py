"""Keeps sessions in memory: for a single sidecar, and for tests. A restart ends all of them."""

from collections.abc import Mapping, Sequence

from authz.credentials.session.model import Session, StoreFullError


class MemorySessionStore:
    """Sessions in the memory of this process."""

    def __init__(self, max_sessions: int, predecessor: "MemorySessionStore | None" = None) -> None:
        self._max_sessions = max_sessions
        # Shared, not copied: during a reload both stores serve.
        self.sessions: dict[str, Session] = predecessor.sessions if predecessor is not None else {}

    def get(self, key: str) -> Session | None:
        """Return the session, or None."""
        return self.sessions.get(key)

    async def put(self, key: str, session: Session, now: float) -> None:
        """Store `session`. Raises StoreFullError."""
        if len(self.sessions) >= self._max_sessions and key not in self.sessions:
            for over in [key for key, kept in self.sessions.items() if kept.over_at <= now]:
                del self.sessions[over]
            if len(self.sessions) >= self._max_sessions:
                raise StoreFullError(f"{self._max_sessions} sessions are open")
        self.sessions[key] = session

    async def renew(self, sessions: Mapping[str, Session], _now: float) -> None:
        """Write renewed sessions. A session that was revoked stays revoked."""
        self.sessions.update({key: kept for key, kept in sessions.items() if key in self.sessions})

    async def revoke(self, keys: Sequence[str]) -> int:
        """Delete these sessions and return how many there were."""
        return sum(self.sessions.pop(key, None) is not None for key in keys)

    async def keys(self, subject: str | None) -> list[str]:
        """Return the keys of the sessions of `subject`, or of all sessions for None."""
        return [key for key, kept in self.sessions.items() if subject in {None, kept.subject}]

    async def read(self, keys: Sequence[str]) -> list[tuple[str, Session]]:
        """Return the existing sessions among these keys."""
        return [(key, self.sessions[key]) for key in keys if key in self.sessions]
