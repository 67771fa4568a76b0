"""Provides the key set of an issuer, from a file or from a URL that is fetched regularly.

Requests never fetch. A background task does, ahead of need; a request waits for it in two cases only: the
first set is on its way, or the token names a key id that the set lacks (envoyproxy/gateway#6520). Since
anyone can send a key id (CVE-2026-48524), the second case is bounded three times: one fetch at a time, a
cool-down between the fetches that key ids cause, and a cache of ids that a fetch did not bring. During the
cool-down it is unknown whether a key id is unknown or new, so the refusal is that of an outage, which is
not counted as a failed check. After a failed fetch the last good set serves for `max_stale_seconds`; then
every token is refused, as there is no other key to fall back to (CVE-2026-31837).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog

from authz.credentials.core.http import FetchError
from authz.credentials.core.metrics import KeySetMetrics
from authz.credentials.jwt.config import KeySetConfig
from authz.credentials.jwt.discovery import DiscoveryError, discovery_url, key_set_url
from authz.credentials.jwt.fetch import Fetch
from authz.credentials.jwt.key_set import Key, KeySet, KeySetError, parse_key_set
from authz.credentials.jwt.suspicion import Suspicions
from authz.credentials.jwt.token import Doubt
from authz.request.identity import CredentialKind, Refusal, RefusalReason
from common.lru_cache import LruCache

MAX_UNKNOWN_KEY_IDS: Final = 1024
"""The most unknown ids cached per issuer. If more are tried, the cool-down still limits fetches."""

BACKOFF_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 60.0
"""The delay after failed fetches is 1, 2, 4 ... 60 seconds, minus up to a half (envoyproxy/gateway#6525)."""

SPREAD_SECONDS: Final = 1.0
"""The time over which fetches after a reload spread: one change of files reloads every sidecar."""

_log = structlog.get_logger(__name__)


class FetchOutcome(StrEnum):
    """The result of a fetch, and the label `outcome` of the metric."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    INVALID = "invalid"


class FileKeys:
    """A key set from a file, which changes only by a reload."""

    def __init__(self, path: Path, keys: KeySet) -> None:
        self.path = path
        self.keys = keys

    def get_cached(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key, or None."""
        return self.keys.find(key_id, algorithm)

    def get(self, key_id: str | None, algorithm: str) -> Key | Refusal:
        """Return the key, or why there is none."""
        return self.keys.find(key_id, algorithm) or _missing(key_id, self.keys)

    def doubt(self, _key: Key, _key_id: str | None, _algorithm: str) -> None:
        """Return None: no fetch can bring another key."""

    def replace(self, keys: KeySet) -> None:
        """Serve `keys` from now on, and void what removed keys have proven."""
        self.keys.withdraw(keys)
        self.keys = keys

    def describe(self) -> dict[str, Any]:
        """Return the state for `/config`."""
        return {
            "file": str(self.path),
            "keys": [key.id for key in self.keys.keys],
            "refused_keys": [str(key) for key in self.keys.refused],
        }


@dataclass(frozen=True, slots=True)
class KeySourceDependencies:
    """The fetcher, clock and random source of a RemoteKeys."""

    fetch: Fetch
    monotonic_clock: Callable[[], float]
    random: Callable[[], float]
    lookup_timeout_seconds: float
    """The longest a request waits for a fetch."""
    issuer: str = ""
    """The issuer of the keys, which a discovery document must name."""


class RemoteKeys:
    """A key set from a URL, fetched regularly."""

    def __init__(
        self, config: KeySetConfig, dependencies: KeySourceDependencies, metrics: KeySetMetrics
    ) -> None:
        self.config = config
        self.dependencies = dependencies
        self._metrics = metrics
        self.keys: KeySet | None = None
        self.fetched_at = 0.0
        self._asked_at = float("-inf")
        """When the last fetch that a key id caused began."""
        self._wanted = False
        """Whether a key id causes the next fetch."""
        self._due_at = dependencies.monotonic_clock()
        self._failures = 0
        self._problem = "not fetched yet"
        self._unknown_ids: LruCache[str, float] = LruCache(MAX_UNKNOWN_KEY_IDS)
        self._predecessor: RemoteKeys | None = None
        self._suspicions = Suspicions()
        self._wake = asyncio.Event()
        self._inflight: asyncio.Future[None] | None = None
        self._fetching = False
        self._task: asyncio.Task[None] | None = None

    def get_cached(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key if a set is present, not too old, and holds it; else None."""
        if self.keys is None or self._too_old(self.dependencies.monotonic_clock()):
            return None
        return self.keys.find(key_id, algorithm)

    def get(self, key_id: str | None, algorithm: str) -> Key | Refusal | Awaitable[Key | Refusal]:
        """Return the key or a refusal; an awaitable only if a fetch could still bring the key."""
        now = self.dependencies.monotonic_clock()
        if self.keys is None or self._too_old(now):
            if self._inflight is not None:
                return self._get_after(self._inflight, key_id, algorithm, conclusive=not self._fetching)
            return _unavailable(self._problem)
        key = self.keys.find(key_id, algorithm)
        if key is not None:
            return key
        if key_id is None or self._is_known_unknown(key_id, now):
            return _missing(key_id, self.keys)
        if self._failures and self._inflight is None:
            # Failed fetches are retried with backoff; it is unknown whether one would bring the key.
            return _unavailable(self._problem)
        if self._fetching and self._inflight is not None:
            # The fetch began before this key id was seen, and may bring a set from before its use.
            return self._get_after(self._inflight, key_id, algorithm, conclusive=False)
        flight = self._ask(now)
        return _too_early(key_id) if flight is None else self._get_after(flight, key_id, algorithm)

    def doubt(self, key: Key, key_id: str | None, algorithm: str) -> Doubt | None:
        """Return what to wait for before a token that `key` did not sign counts as forged.

        The issuer may have published another key under the same id, so this fetches as for an unknown id.
        """
        if self._task is None:
            return None
        once_final = self._suspicions.of(key)
        if self._failures:
            return Doubt(None, once_final)
        flight = self._inflight if self._fetching else None
        if flight is not None:
            return Doubt(self._get_from_running_fetch(flight, key, key_id, algorithm), once_final)
        flight = self._ask(self.dependencies.monotonic_clock())
        return Doubt(None if flight is None else self._get_after(flight, key_id, algorithm), once_final)

    def fetch_soon(self) -> None:
        """Fetch within a second, because an operator reloads."""
        soon = self.dependencies.monotonic_clock() + SPREAD_SECONDS * self.dependencies.random()
        self._due_at = min(self._due_at, soon)
        self._wake.set()

    def start(self) -> None:
        """Start to fetch, on the running loop. `ready` waits for the first fetch."""
        if self._task is None:
            self._take_over()
            self._predecessor = None
            self._start_fetch()
            self._task = asyncio.create_task(self._run(), name=f"key set {self.place}")

    async def ready(self) -> None:
        """Return when no fetch is in flight."""
        if self._inflight is not None:
            await asyncio.shield(self._inflight)

    def stop(self) -> None:
        """Stop fetching; the keys serve until they are too old."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._finish_fetch()

    def same_as(self, other: "RemoteKeys") -> bool:
        """Return whether `other` has the same configuration."""
        return self.config == other.config and self.dependencies == other.dependencies

    @property
    def place(self) -> str:
        """The URL of the key set, or of the discovery document."""
        return self.config.url or discovery_url(self.config, self.dependencies.issuer)

    def adopt(self, other: "RemoteKeys") -> None:
        """Take over the keys of `other`, and their age, if it fetches from the same URL.

        `start` takes them over again: until then `other` goes on, and may withdraw keys.
        """
        if other.place == self.place:
            self._predecessor = other
            self._take_over()

    def _take_over(self) -> None:
        other = self._predecessor
        if other is not None:
            self.keys, self.fetched_at = other.keys, other.fetched_at

    def describe(self) -> dict[str, Any]:
        """Return the state for `/config`."""
        age = self.dependencies.monotonic_clock() - self.fetched_at
        return {
            "url": self.place,
            "keys": [] if self.keys is None else [key.id for key in self.keys.keys],
            "refused_keys": [] if self.keys is None else [str(key) for key in self.keys.refused],
            "age_seconds": None if self.keys is None else round(age, 1),
            "refresh_seconds": self.config.refresh_seconds,
            "max_stale_seconds": self.config.max_stale_seconds,
            "problem": self._problem,
        }

    def _too_old(self, now: float) -> bool:
        return now - self.fetched_at > self.config.max_stale_seconds

    def _is_known_unknown(self, key_id: str, now: float) -> bool:
        until = self._unknown_ids.get(key_id)
        return until is not None and now < until

    def _ask(self, now: float) -> "asyncio.Future[None] | None":
        """Return the fetch that may bring an unknown key id; None during the cool-down."""
        if self._task is None:
            return None
        earliest = self._asked_at + self.config.cooldown_seconds
        self._due_at = min(self._due_at, max(earliest, now))
        self._wanted = True
        self._wake.set()
        return self._start_fetch() if now >= earliest or self._inflight is not None else None

    def _start_fetch(self) -> "asyncio.Future[None]":
        if self._inflight is None:
            self._inflight = asyncio.get_running_loop().create_future()
        return self._inflight

    def _finish_fetch(self) -> None:
        flight, self._inflight = self._inflight, None
        if flight is not None and not flight.done():
            flight.set_result(None)

    async def _get_after(
        self, flight: "asyncio.Future[None]", key_id: str | None, algorithm: str, *, conclusive: bool = True
    ) -> Key | Refusal:
        try:
            async with asyncio.timeout(self.dependencies.lookup_timeout_seconds):
                # Others wait for the same fetch, so a caller that gives up must not cancel it.
                await asyncio.shield(flight)
        except TimeoutError:
            return _unavailable("the fetch takes longer than a request may wait")
        if self.keys is None or self._failures:
            return _unavailable(self._problem)
        key = self.keys.find(key_id, algorithm)
        if key is not None or key_id is None:
            return key or _missing(key_id, self.keys)
        now = self.dependencies.monotonic_clock()
        if not conclusive:
            self._ask(now)
            return _too_early(key_id)
        self._unknown_ids.put(key_id, now + self.config.unknown_key_seconds)
        return _missing(key_id, self.keys)

    async def _get_from_running_fetch(
        self, flight: "asyncio.Future[None]", key: Key, key_id: str | None, algorithm: str
    ) -> Key | Refusal:
        """Return the result of a fetch that began before `key` was in doubt. If it is `key`, fetch again."""
        found = await self._get_after(flight, key_id, algorithm, conclusive=False)
        if found is key:
            self._ask(self.dependencies.monotonic_clock())
        return found

    async def _run(self) -> None:
        while True:
            delay = self._due_at - self.dependencies.monotonic_clock()
            if delay > 0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                continue
            self._start_fetch()
            try:
                await self._fetch_once()
            finally:
                self._finish_fetch()

    async def _fetch_once(self) -> None:
        if self._wanted:
            self._wanted, self._asked_at = False, self.dependencies.monotonic_clock()
        self._fetching = True
        self._suspicions.fetch_begins()
        try:
            keys = parse_key_set(await self._fetch_document(), self.keys)
        except FetchError as error:
            self._failed(FetchOutcome.UNREACHABLE, str(error))
        except (KeySetError, DiscoveryError) as error:
            self._failed(FetchOutcome.INVALID, str(error))
        except Exception as error:  # the task must live: without it the keys would go stale unnoticed
            self._failed(FetchOutcome.UNREACHABLE, f"{type(error).__name__}: {error}")
        else:
            self._succeeded(keys)
        finally:
            self._fetching = False

    async def _fetch_document(self) -> bytes:
        if self.config.discovery is None:
            return await self.dependencies.fetch(self.config)
        # Fetched each time, as the keys may move; the last good keys serve while either fetch fails.
        at = discovery_url(self.config, self.dependencies.issuer)
        document = await self.dependencies.fetch(self.config.model_copy(update={"url": at}))
        found = key_set_url(document, at, self.dependencies.issuer, self.config)
        return await self.dependencies.fetch(self.config.model_copy(update={"url": found}))

    def _succeeded(self, keys: KeySet) -> None:
        now = self.dependencies.monotonic_clock()
        previous, self.keys = self.keys, keys
        if previous is not None:
            previous.withdraw(keys)
        self._suspicions.fetch_succeeded()
        if previous is None or {key.id for key in previous.keys} != {key.id for key in keys.keys}:
            refused = [str(key) for key in keys.refused]
            _log.info("key set changed", url=self.place, keys=[k.id for k in keys.keys], refused=refused)
        self.fetched_at, self._failures, self._problem = now, 0, ""
        self._due_at = now + self.config.refresh_seconds * (1 - 0.2 * self.dependencies.random())
        self._metrics.fetched(FetchOutcome.OK, keys=len(keys.keys), at=now)

    def _failed(self, outcome: FetchOutcome, problem: str) -> None:
        backoff = min(BACKOFF_SECONDS * 2 ** min(self._failures, 10), MAX_BACKOFF_SECONDS)
        self._failures += 1
        self._problem = problem
        backoff *= 1 - 0.5 * self.dependencies.random()
        self._due_at = self.dependencies.monotonic_clock() + min(backoff, self.config.refresh_seconds)
        self._metrics.fetched(outcome)
        _log.warning("key set fetch failed", url=self.place, problem=problem, failures=self._failures)


def _missing(key_id: str | None, keys: KeySet) -> Refusal:
    if key_id in keys.retired:
        return Refusal(RefusalReason.KEY_RETIRED, f"key {key_id!r} is no longer in use", CredentialKind.JWT)
    detail = f"no key {key_id!r}" if key_id is not None else "it has no kid, and not exactly one key fits"
    return Refusal(RefusalReason.KEY_UNKNOWN, detail, CredentialKind.JWT)


def _too_early(key_id: str) -> Refusal:
    return _unavailable(f"no key {key_id!r} yet, and it is too early to fetch it")


def _unavailable(problem: str) -> Refusal:
    return Refusal(RefusalReason.KEYS_UNAVAILABLE, problem, CredentialKind.JWT)
