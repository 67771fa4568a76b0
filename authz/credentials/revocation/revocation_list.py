"""The list of tokens refused before they expire: by id, by session, by subject, by age.

Every process holds the whole list, so that a request needs no call. `epoch` changes whenever the list
grows: a token cached under another epoch is checked against the list again.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite, isnan
from typing import Any, Final, Protocol

from authz.credentials.revocation.config import RevocationsConfig
from authz.request.identity import CredentialKind, Identity, Refusal, RefusalReason

MAX_VALUE_CHARACTERS: Final = 1024
"""The longest `jti`, `sid`, subject or issuer. OpenID Connect allows 255 for a subject."""

UNAVAILABLE_EPOCH: Final = -1
"""The epoch while the list is unavailable; no cached token has it."""

SURPLUS: Final = 2
"""How many times `max_entries` this process holds for a shared store. The store keeps to the bound; this
process also holds what the store lost in a failover."""

OVERFLOWED_SECONDS: Final = 30.0
"""How long after an overflow the list is read again, as it may have become shorter."""

LOADED_AT_ONCE: Final = 500
"""The entries handled before calls get a turn. A hundred thousand at once would delay them by 0.15 s."""

_NO_TIME: Final = Refusal(
    RefusalReason.CLAIM_MISSING, "it has no iat, without which it could not be revoked", CredentialKind.JWT
)


class RevocationsFullError(Exception):
    """The list holds the most entries allowed."""


class Revoked(StrEnum):
    """The kinds of revocation, by the claim that they compare."""

    TOKEN = "jti"  # noqa: S105 - the name of a claim
    SESSION = "sid"
    SUBJECT = "sub"
    ALL_BEFORE = "before"


@dataclass(frozen=True, slots=True)
class Revocation:
    """An entry of the list. Times are in unix seconds."""

    kind: Revoked
    value: str
    """The value of the claim `kind`; empty for ALL_BEFORE."""
    until: float
    """When the entry may be removed, because every token that it covers has expired."""
    before: float = inf
    """It covers tokens issued before this time. A token without `iat` counts as issued before any time."""
    issuer: str = ""
    """It covers tokens of this issuer; empty: of every issuer."""

    def __post_init__(self) -> None:
        if bool(self.value) is (self.kind is Revoked.ALL_BEFORE):
            raise ValueError(f"a revocation by {self.kind} {'takes no' if self.value else 'needs a'} value")
        if not isfinite(self.until) or isnan(self.before):
            raise ValueError("its times are not finite numbers")
        if max(len(self.value), len(self.issuer)) > MAX_VALUE_CHARACTERS:
            raise ValueError(f"longer than {MAX_VALUE_CHARACTERS} characters")

    def merge(self, other: "Revocation") -> "Revocation":
        """Return the union of two revocations with the same key."""
        return replace(self, until=max(self.until, other.until), before=max(self.before, other.before))

    def covered_by(self, other: "Revocation | None") -> bool:
        """Return whether `other`, which has the same key, revokes at least as much."""
        return other is not None and other.until >= self.until and other.before >= self.before

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of the entry in the list."""
        return self.kind, self.issuer, self.value


class RevocationStore(Protocol):
    """Shares the list between sidecars. Every method raises StoreUnavailableError."""

    async def now(self) -> float:
        """Return the time of the store in unix seconds, on which all sidecars agree."""

    async def add(self, revocations: Sequence[Revocation], max_entries: int) -> None:
        """Store these and tell every sidecar. Raises RevocationsFullError if some did not fit."""

    async def load(self, limit: int) -> list[Revocation]:
        """Return the list, at most `limit` + 1 entries; some may have expired."""

    async def clean(self) -> list[str]:
        """Remove and return unreadable entries, which keep the list from being loaded."""


class Revocations:
    """The list of this process, shared through `store` if there is one."""

    def __init__(
        self,
        config: RevocationsConfig,
        store: RevocationStore | None,
        wall_clock: Callable[[], float],
        monotonic_clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.store = store
        self._wall_clock = wall_clock
        self._clock = monotonic_clock
        self._entries: dict[tuple[str, str, str], Revocation] = {}
        self._counter = 0
        self._overflowed = False
        self._overflowed_at = -inf
        self._successor: Revocations | None = None
        self._confirmed_at = -inf
        self.epoch = 0 if store is None else UNAVAILABLE_EPOCH

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Revocation]:
        """The entries that have not expired."""
        now = self._wall_clock()
        return [entry for entry in self._entries.values() if entry.until > now]

    def check(self, identity: Identity, issued_at: float | None) -> Identity | Refusal:
        """Return `identity`, or a refusal if it is revoked or the list is unavailable."""
        if self.epoch == UNAVAILABLE_EPOCH:
            detail = (
                "the list is not available" if not self._overflowed else "the list is longer than its bound"
            )
            return Refusal(RefusalReason.REVOCATIONS_UNAVAILABLE, detail, identity.kind)
        if issued_at is None and identity.kind is CredentialKind.JWT:
            # Its lifetime is unknown, and so is how long its revocation has to be kept.
            return _NO_TIME
        if not self._entries:
            return identity
        claims = identity.claims
        issuer = identity.issuer or _text(claims, "iss")
        named = (
            (Revoked.TOKEN, _text(claims, "jti")),
            (Revoked.SESSION, _text(claims, "sid")),
            (Revoked.SUBJECT, identity.subject),
            # The name in logout tokens of the issuer, if `subject_claim` is another claim.
            (Revoked.SUBJECT, _text(claims, "sub")),
            (Revoked.ALL_BEFORE, ""),
        )
        for kind, value in named:
            for of in (issuer, "") if issuer else ("",):
                entry = self._entries.get((kind, of, value))
                if entry is not None and self._covers(entry, issued_at):
                    return Refusal(RefusalReason.REVOKED, f"revoked by {kind}", identity.kind)
        return identity

    def _covers(self, entry: Revocation, issued_at: float | None) -> bool:
        return (issued_at is None or issued_at < entry.before) and self._wall_clock() < entry.until

    async def revoke(self, revocation: Revocation) -> None:
        """Revoke, in this process at once and in the others within a second.

        Raises StoreUnavailableError, and, except for ALL_BEFORE, RevocationsFullError.
        """
        if self.store is not None:
            await self.store.add([revocation], self.config.max_entries)
        elif not self._has_room(revocation):
            raise RevocationsFullError(f"{self.config.max_entries} revocations are kept")
        self.add(revocation)

    def add(self, revocation: Revocation) -> None:
        """Add `revocation` to the list of this process."""
        if not self._has_room(revocation):
            # It does not fit, and dropping it would accept revoked tokens.
            if not self._overflowed:  # only the first time: more may keep arriving
                self._overflowed, self._overflowed_at = True, self._clock()
            self.epoch = UNAVAILABLE_EPOCH
            return
        known = self._entries.get(revocation.key)
        if revocation.covered_by(known):
            return
        self._entries[revocation.key] = revocation if known is None else known.merge(revocation)
        self._next_epoch()

    async def load(self, revocations: Sequence[Revocation]) -> None:
        """Add the entries of the store; those that it lost in a failover stay."""
        self._overflowed = False
        for page in _pages(revocations):
            for revocation in page:
                self.add(revocation)
            await asyncio.sleep(0)
        self.confirm()

    async def missing_in(self, kept: Sequence[Revocation]) -> list[Revocation]:
        """Return the live entries of this process that `kept`, the list of the store, lacks.

        A sidecar that starts later knows only the store.
        """
        there: dict[tuple[str, str, str], Revocation] = {}
        for page in _pages(kept):
            there.update((entry.key, entry) for entry in page)
            await asyncio.sleep(0)
        now, missing = self._wall_clock(), list[Revocation]()
        for page in _pages(list(self._entries.values())):
            missing += [
                entry for entry in page if entry.until > now and not entry.covered_by(there.get(entry.key))
            ]
            await asyncio.sleep(0)
        while there:  # in pieces: freeing all of it at once would hold the loop for ten milliseconds
            for _ in range(min(LOADED_AT_ONCE, len(there))):
                there.popitem()
            await asyncio.sleep(0)
        return missing

    async def now(self) -> float:
        """Return the time in unix seconds, of the store if there is one. Raises StoreUnavailableError."""
        return self._wall_clock() if self.store is None else await self.store.now()

    def confirm(self) -> None:
        """Note that the list is up to date now."""
        self._confirmed_at = self._clock()
        if self.epoch == UNAVAILABLE_EPOCH and not self._overflowed:
            self._next_epoch()

    def expire(self) -> None:
        """Make the list unavailable if it may be out of date for longer than `max_stale_seconds`."""
        if self.store is not None and self._clock() - self._confirmed_at > self.config.max_stale_seconds:
            self.epoch = UNAVAILABLE_EPOCH

    @property
    def limit(self) -> int:
        """The most entries that this process holds, besides ALL_BEFORE."""
        return self.config.max_entries * (1 if self.store is None else SURPLUS)

    @property
    def needs_resync(self) -> bool:
        """Whether the list overflowed OVERFLOWED_SECONDS ago or earlier."""
        return self._overflowed and self._clock() - self._overflowed_at > OVERFLOWED_SECONDS

    def adopt(self, other: "Revocations") -> None:
        """Start with the list of `other`, and follow its later changes."""
        # Shared, not copied: revocations during the preparation of a reload must survive it.
        self._entries = other._entries  # noqa: SLF001 - the same list in two configurations
        self._counter = other._counter  # noqa: SLF001
        self._confirmed_at = other._confirmed_at  # noqa: SLF001
        # An addition to the other (by a logout that waited for a key) reaches this one too.
        other._successor = self  # noqa: SLF001
        if other.epoch != UNAVAILABLE_EPOCH:
            self._next_epoch()

    def _has_room(self, revocation: Revocation) -> bool:
        if revocation.kind is Revoked.ALL_BEFORE or revocation.key in self._entries:
            return True
        if len(self._entries) < self.limit:
            return True
        self._prune()
        exempt = sum(kind is Revoked.ALL_BEFORE for kind, _, _ in self._entries)
        return len(self._entries) - exempt < self.limit

    def _prune(self) -> None:
        # Only to make room: a clock that is ahead for a while must not remove revocations permanently.
        now = self._wall_clock()
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            del self._entries[key]

    def _next_epoch(self) -> None:
        if self._successor is not None:
            self._successor._next_epoch()  # noqa: SLF001 - the successor of this list
        if self._overflowed or (self.store is not None and self._confirmed_at == -inf):
            return
        self._counter += 1
        self.epoch = self._counter


class NoRevocations:
    """The list of a configuration without revocations: always empty."""

    epoch: Final = 0

    def check(self, identity: Identity, _issued_at: float | None) -> Identity | Refusal:
        """Return `identity`."""
        return identity


class RevocationCheck(Protocol):
    """The part of the list that verifiers use."""

    @property
    def epoch(self) -> int:
        """A number that changes when the list grows; UNAVAILABLE_EPOCH while it is unavailable."""

    def check(self, identity: Identity, issued_at: float | None) -> Identity | Refusal:
        """Return `identity`, or a refusal if it is revoked or the list is unavailable."""


def issued_at(identity: Identity) -> float | None:
    """Return the `iat` of an identity in unix seconds, or None."""
    value = identity.claims.get("iat")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pages(revocations: Sequence[Revocation]) -> Iterator[Sequence[Revocation]]:
    for start in range(0, len(revocations), LOADED_AT_ONCE):
        yield revocations[start : start + LOADED_AT_ONCE]


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
