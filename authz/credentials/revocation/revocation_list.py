"""Tokens that are refused although they have not expired: by id, by session, by subject, by age.

Every process holds the whole list, so that a request asks nobody. `epoch` changes whenever the list
grows: what was remembered of a token under another epoch is checked against the list once more.
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
"""Of a `jti`, a `sid`, a subject or an issuer. OpenID Connect allows a subject 255."""

UNAVAILABLE_EPOCH: Final = -1
"""While it is not known what is revoked: equal to no epoch under which anything was remembered."""


SURPLUS: Final = 2
"""How many times `max_entries` of a store are taken in. The store keeps to the bound; what it lost in a
failover is here beside what came since."""

OVERFLOWED_SECONDS: Final = 30.0
"""After so long a list that was too long is read anew: it may have become shorter."""

LOADED_AT_ONCE: Final = 500
"""Of a list; then calls are answered. A hundred thousand at once would hold them up for 0.15 s."""


_NO_TIME: Final = Refusal(
    RefusalReason.CLAIM_MISSING, "it has no iat, without which it could not be revoked", CredentialKind.JWT
)


class RevocationsFullError(Exception):
    """The list holds as many entries as it may."""


class Revoked(StrEnum):
    """What a revocation names."""

    TOKEN = "jti"  # noqa: S105 - the name of a claim
    SESSION = "sid"
    SUBJECT = "sub"
    EVERYTHING = "before"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Times in unix seconds."""

    kind: Revoked
    value: str
    """Of the claim `kind`; empty for EVERYTHING."""
    until: float
    """When it may be forgotten, because all that it concerns has expired."""
    before: float = inf
    """It concerns what was issued before. A token without `iat` was issued before any time."""
    issuer: str = ""
    """It concerns this issuer only; empty: all of them."""

    def __post_init__(self) -> None:
        if bool(self.value) is (self.kind is Revoked.EVERYTHING):
            raise ValueError(f"a revocation by {self.kind} {'takes no' if self.value else 'needs a'} value")
        if not isfinite(self.until) or isnan(self.before):
            raise ValueError("its times are no times")
        if max(len(self.value), len(self.issuer)) > MAX_VALUE_CHARACTERS:
            raise ValueError(f"longer than {MAX_VALUE_CHARACTERS} characters")

    def joined(self, other: "Revocation") -> "Revocation":
        """What both together revoke; they have the same key."""
        return replace(self, until=max(self.until, other.until), before=max(self.before, other.before))

    def within(self, other: "Revocation | None") -> bool:
        """Whether `other`, which has the same key, revokes as much."""
        return other is not None and other.until >= self.until and other.before >= self.before

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is found by."""
        return self.kind, self.issuer, self.value


class RevocationStore(Protocol):
    """Where the list is shared. Raises StoreUnavailableError."""

    async def now(self) -> float:
        """The time in unix seconds that all who share the list agree on."""

    async def add(self, revocations: Sequence[Revocation], max_entries: int) -> None:
        """Keep these and tell all others. Raises RevocationsFullError where some had no room."""

    async def load(self, limit: int) -> list[Revocation]:
        """Everything kept, `limit` + 1 at most, among it perhaps what is over."""

    async def clean(self) -> list[str]:
        """Remove what cannot be read, and keeps the list from being loaded; what that was."""


class Revocations:
    """The list in service. Without a store it is this process's own."""

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
        """Those that still concern something."""
        now = self._wall_clock()
        return [entry for entry in self._entries.values() if entry.until > now]

    def check(self, identity: Identity, issued_at: float | None) -> Identity | Refusal:
        """`identity`, unless it is revoked, or nobody can say."""
        if self.epoch == UNAVAILABLE_EPOCH:
            detail = (
                "the list is not to be had" if not self._overflowed else "the list is longer than it may be"
            )
            return Refusal(RefusalReason.REVOCATIONS_UNAVAILABLE, detail, identity.kind)
        if issued_at is None and identity.kind is CredentialKind.JWT:
            # How long it lives in all cannot be told, and so not for how long a revocation has to be kept.
            return _NO_TIME
        if not self._entries:
            return identity
        claims = identity.claims
        issuer = identity.issuer or _text(claims, "iss")
        named = (
            (Revoked.TOKEN, _text(claims, "jti")),
            (Revoked.SESSION, _text(claims, "sid")),
            (Revoked.SUBJECT, identity.subject),
            # What the issuer calls it, and so its logout tokens, where `subject_claim` is another.
            (Revoked.SUBJECT, _text(claims, "sub")),
            (Revoked.EVERYTHING, ""),
        )
        for kind, value in named:
            for of in (issuer, "") if issuer else ("",):
                entry = self._entries.get((kind, of, value))
                if entry is not None and self._concerns(entry, issued_at):
                    return Refusal(RefusalReason.REVOKED, f"revoked by {kind}", identity.kind)
        return identity

    def _concerns(self, entry: Revocation, issued_at: float | None) -> bool:
        return (issued_at is None or issued_at < entry.before) and self._wall_clock() < entry.until

    async def revoke(self, revocation: Revocation) -> None:
        """Refuse what `revocation` names, here at once and elsewhere within a second.

        Raises StoreUnavailableError, and RevocationsFullError for anything but EVERYTHING.
        """
        if self.store is not None:
            await self.store.add([revocation], self.config.max_entries)
        elif not self._has_room(revocation):
            raise RevocationsFullError(f"{self.config.max_entries} revocations are kept")
        self.add(revocation)

    def add(self, revocation: Revocation) -> None:
        """Take `revocation` into this process's list."""
        if not self._has_room(revocation):
            # It cannot be kept, and to pass over it would let in what is revoked.
            if not self._overflowed:  # the first time: others may follow without end
                self._overflowed, self._overflowed_at = True, self._clock()
            self.epoch = UNAVAILABLE_EPOCH
            return
        known = self._entries.get(revocation.key)
        if revocation.within(known):
            return
        self._entries[revocation.key] = revocation if known is None else known.joined(revocation)
        self._next_epoch()

    async def load(self, revocations: Sequence[Revocation]) -> None:
        """Take in what the store holds; what it lost (a failover) is not forgotten."""
        self._overflowed = False
        for page in _pages(revocations):
            for revocation in page:
                self.add(revocation)
            await asyncio.sleep(0)
        self.confirm()

    async def missing_in(self, kept: Sequence[Revocation]) -> list[Revocation]:
        """What is known here and still concerns something, where `kept` is all that the store has.

        Who starts later knows only what the store does.
        """
        there: dict[tuple[str, str, str], Revocation] = {}
        for page in _pages(kept):
            there.update((entry.key, entry) for entry in page)
            await asyncio.sleep(0)
        now, missing = self._wall_clock(), list[Revocation]()
        for page in _pages(list(self._entries.values())):
            missing += [
                entry for entry in page if entry.until > now and not entry.within(there.get(entry.key))
            ]
            await asyncio.sleep(0)
        while there:  # piece by piece: at once it would take ten milliseconds
            for _ in range(min(LOADED_AT_ONCE, len(there))):
                there.popitem()
            await asyncio.sleep(0)
        return missing

    async def now(self) -> float:
        """The time in unix seconds, of the store where there is one. Raises StoreUnavailableError."""
        return self._wall_clock() if self.store is None else await self.store.now()

    def confirm(self) -> None:
        """The list is up to date now."""
        self._confirmed_at = self._clock()
        if self.epoch == UNAVAILABLE_EPOCH and not self._overflowed:
            self._next_epoch()

    def expire(self) -> None:
        """Serve no more where the list may be out of date for too long."""
        if self.store is not None and self._clock() - self._confirmed_at > self.config.max_stale_seconds:
            self.epoch = UNAVAILABLE_EPOCH

    @property
    def limit(self) -> int:
        """How many entries are taken in, beside EVERYTHING."""
        return self.config.max_entries * (1 if self.store is None else SURPLUS)

    @property
    def needs_resync(self) -> bool:
        """Whether it was too long a while ago."""
        return self._overflowed and self._clock() - self._overflowed_at > OVERFLOWED_SECONDS

    def inherit(self, other: "Revocations") -> None:
        """Begin with what `other` knows, and hear what it still learns."""
        # Shared, not copied: what is revoked while a reload is prepared counts after it.
        self._entries = other._entries  # noqa: SLF001 - the same list in two configurations
        self._counter = other._counter  # noqa: SLF001
        self._confirmed_at = other._confirmed_at  # noqa: SLF001
        # Who still adds to the other (a logout that waited for a key) adds to this one, too.
        other._successor = self  # noqa: SLF001
        if other.epoch != UNAVAILABLE_EPOCH:
            self._next_epoch()

    def _has_room(self, revocation: Revocation) -> bool:
        if revocation.kind is Revoked.EVERYTHING or revocation.key in self._entries:
            return True
        if len(self._entries) < self.limit:
            return True
        self._prune()
        exempt = sum(kind is Revoked.EVERYTHING for kind, _, _ in self._entries)
        return len(self._entries) - exempt < self.limit

    def _prune(self) -> None:
        # Only for want of room: a clock that is ahead for a while must not forgive anything for good.
        now = self._wall_clock()
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            del self._entries[key]

    def _next_epoch(self) -> None:
        if self._successor is not None:
            self._successor._next_epoch()  # noqa: SLF001 - the same list, of which that one remembers things
        if self._overflowed or (self.store is not None and self._confirmed_at == -inf):
            return
        self._counter += 1
        self.epoch = self._counter


class NoRevocations:
    """Nothing can be revoked, because the configuration has no list."""

    epoch: Final = 0

    def check(self, identity: Identity, _issued_at: float | None) -> Identity | Refusal:
        """`identity`."""
        return identity


class RevocationCheck(Protocol):
    """What verifiers need of the list."""

    @property
    def epoch(self) -> int:
        """Changes when the list grows; UNAVAILABLE_EPOCH while it is not to be had."""

    def check(self, identity: Identity, issued_at: float | None) -> Identity | Refusal:
        """`identity`, unless it is revoked, or nobody can say."""


def issued_at(identity: Identity) -> float | None:
    """The `iat` of an identity; None where it has none."""
    value = identity.claims.get("iat")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pages(revocations: Sequence[Revocation]) -> Iterator[Sequence[Revocation]]:
    for start in range(0, len(revocations), LOADED_AT_ONCE):
        yield revocations[start : start + LOADED_AT_ONCE]


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
