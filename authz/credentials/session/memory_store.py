"""Sessions in the memory of one process: for one sidecar, and for tests. A restart ends them all."""

from collections.abc import Mapping, Sequence

from authz.credentials.session.model import Session, StoreFullError


class MemoryStore:
    """Sessions in a dictionary."""

    def __init__(self, max_sessions: int, predecessor: "MemoryStore | None" = None) -> None:
        self._max_sessions = max_sessions
        # Shared, not copied: both serve for the moment of a reload.
        self.sessions: dict[str, Session] = predecessor.sessions if predecessor is not None else {}

    def get(self, key: str) -> Session | None:
        """The session, at once."""
        return self.sessions.get(key)

    async def put(self, key: str, session: Session, now: float) -> None:
        """Keep `session`. Raises StoreFullError."""
        if len(self.sessions) >= self._max_sessions and key not in self.sessions:
            for over in [key for key, kept in self.sessions.items() if kept.over_at <= now]:
                del self.sessions[over]
            if len(self.sessions) >= self._max_sessions:
                raise StoreFullError(f"{self._max_sessions} sessions are open")
        self.sessions[key] = session

    async def renew(self, sessions: Mapping[str, Session], _now: float) -> None:
        """Write what use has changed. A session that was revoked meanwhile stays so."""
        self.sessions.update({key: kept for key, kept in sessions.items() if key in self.sessions})

    async def revoke(self, keys: Sequence[str]) -> int:
        """Forget these sessions; how many there were."""
        return sum(self.sessions.pop(key, None) is not None for key in keys)

    async def keys(self, subject: str | None) -> list[str]:
        """The keys of all sessions, or of those of `subject`."""
        return [key for key, kept in self.sessions.items() if subject in {None, kept.subject}]

    async def read(self, keys: Sequence[str]) -> list[tuple[str, Session]]:
        """The sessions of these keys that there are."""
        return [(key, self.sessions[key]) for key in keys if key in self.sessions]
