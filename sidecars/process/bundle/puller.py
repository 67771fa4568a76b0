"""Pulls bundles: fetches, verifies, and puts into service what is newer and good; keeps the last good one."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from authz.credentials.core.http import FetchError
from common.configfile import ConfigError
from common.os_errors import in_words
from edge.bundle.errors import BundleError
from edge.release.model import Target
from sidecars.observability.bundle_metrics import PullMetrics, PullOutcome
from sidecars.process.bundle.offer import Offer, bundle_of, node_id, offer_of, record_of
from sidecars.process.bundle.pause import pause_seconds
from sidecars.process.bundle.source import Fetched, fetch
from sidecars.process.bundle.status import StatusReporter
from sidecars.process.bundle.store import Accepted, BundleStore
from sidecars.settings.bundle import BundleSettings, without_query

MAX_HISTORY: Final = 20
"""Pulls with an outcome other than `unchanged` that `/config` shows."""

MAX_PROBLEMS: Final = 20
"""Problems of a refused bundle that are shown; `sidecars config check` and `policy check` show all."""

_log = structlog.get_logger("sidecars.bundle")


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull and its outcome."""

    unix_seconds: float
    outcome: PullOutcome
    revision: str = ""
    """The revision of the bundle that came, if it could be read."""
    problems: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The pull, as `/config` and status reports show it."""
        at = datetime.fromtimestamp(self.unix_seconds, UTC).isoformat(timespec="seconds")
        return {"at": at, "outcome": self.outcome, "revision": self.revision, "problems": list(self.problems)}


class Activates(Protocol):
    """Puts changed files into service in every sidecar or in none (`sidecars.process.reload.Reloader`)."""

    async def reload_together(self, enter: Callable[[], None], leave: Callable[[], None]) -> Sequence[str]:
        """Call `enter`, reload, and on problems `leave`. Returns the problems."""

    async def judge_candidate(self, serving: Path, candidate: Path | None) -> Sequence[str]:
        """Judge what is below `candidate` next to what is below `serving`. Returns the problems."""


class BundlePuller:
    """Pulls the bundles of one process until it is cancelled.

    `accepted`: the bundle that serves since the start. `wall_clock` gives Unix seconds, `random` a number in
    [0, 1), `counts` what the sidecars have counted since the start (`edge.release.gate.COUNTS`).
    """

    def __init__(
        self,
        settings: BundleSettings,
        accepted: Accepted | None,
        reloader: Activates,
        metrics: PullMetrics,
        *,
        wall_clock: Callable[[], float],
        monotonic_clock: Callable[[], float],
        random: Callable[[], float],
        counts: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._settings = settings
        self._store = BundleStore(settings.folder)
        self._reloader = reloader
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._monotonic_clock = monotonic_clock
        self._random = random
        self._counts = counts
        self._counts_before = dict(counts())
        """What was counted when this revision began to serve."""
        self._accepted = self._recorded = accepted
        # A release is read again after a start: it may name a candidate.
        self._etag = "" if accepted is None or settings.staged else accepted.etag
        self._candidate: str | None = None
        """The digest of the bundle that is judged in the shadow."""
        self._candidate_problems: tuple[str, ...] = ()
        self._failures = 0
        self._last: Pull | None = None
        self._history: deque[Pull] = deque(maxlen=MAX_HISTORY)
        self.node_id = node_id(settings)
        self._reporter = None
        if settings.status is not None:
            self._reporter = StatusReporter(settings.status, self.status, metrics)
        if accepted is not None:
            metrics.serves(accepted.revision, accepted.unix_seconds)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as tasks for as long as the process serves."""
        return [self.run()] if self._reporter is None else [self.run(), self._reporter.run()]

    async def run(self) -> None:
        """Pull again and again until cancelled."""
        while True:
            began = self._monotonic_clock()
            held = await self.pull()
            took = self._monotonic_clock() - began
            await asyncio.sleep(
                pause_seconds(
                    self._settings, self._random(), failures=self._failures, took_seconds=took, held=held
                )
            )

    async def pull(self) -> bool:
        """Ask the server once. Returns whether the next request may follow at once, as it holds requests."""
        try:
            fetched = await self._fetch()
        except FetchError as error:
            self._failures += 1
            self._note(Pull(self._wall_clock(), PullOutcome.UNREACHABLE, problems=(str(error),)))
            return False
        self._failures = 0
        if fetched.body is None:
            self._note(self._unchanged())
            return fetched.long_poll
        self._note(await self._take(fetched.body, fetched.etag))
        return fetched.long_poll and self._is_good

    def _unchanged(self) -> Pull:
        """The pull that brought nothing new. Once what serves has expired, the server may hold back newer."""
        now, serving = self._wall_clock(), self._accepted
        if serving is not None and serving.expires_at is not None and now >= serving.expires_at:
            what = "the release file" if self._settings.staged else "the signature of what serves"
            text = f"{what} has expired, and the server has nothing newer"
            return Pull(now, PullOutcome.EXPIRED, serving.revision, (text,))
        return Pull(now, PullOutcome.UNCHANGED, self._revision)

    async def _fetch(self) -> Fetched:
        settings = self._settings
        return await fetch(
            settings,
            etag=self._etag,
            wait_seconds=settings.long_poll_seconds if self._is_good else None,
            max_bytes=settings.max_bytes,
        )

    async def _take(self, body: bytes, etag: str) -> Pull:
        """Put the bundle that is offered into service if it is good and newer."""
        now = self._wall_clock()
        revision = ""
        try:
            offer = await offer_of(self._settings, body, self._accepted, self._store, now)
            revision = offer.revision
            if offer.new is None:
                await self._judge_candidate(offer.candidate)
                await self._note_release(offer, etag)
                return self._unchanged()
            problems = await self._activate(offer, etag, now)
            if not problems:
                await self._judge_candidate(offer.candidate)
        except FetchError as error:
            return Pull(now, PullOutcome.UNREACHABLE, revision, (str(error),))
        except BundleError as error:
            return Pull(now, PullOutcome(error.fault), revision, (str(error),))
        except ConfigError as error:
            return Pull(now, PullOutcome.FAILED, revision, tuple(map(str, error.problems)))
        except OSError as error:
            return Pull(now, PullOutcome.FAILED, revision, (f"{self._settings.folder}: {in_words(error)}",))
        if problems:
            return Pull(now, PullOutcome.REFUSED, revision, tuple(problems[:MAX_PROBLEMS]))
        return Pull(now, PullOutcome.ACTIVATED, revision)

    async def _activate(self, offer: Offer, etag: str, now: float) -> Sequence[str]:
        """Put a new bundle into service. Returns the problems of the sidecars that cannot use it."""
        store, before = self._store, self._accepted

        def leave() -> None:
            store.switch(None if before is None else before.digest)

        if offer.new is not None:
            await asyncio.to_thread(store.put, *offer.new)
        problems = await self._reloader.reload_together(lambda: store.switch(offer.digest), leave)
        if problems:
            await asyncio.to_thread(store.discard, offer.digest)
            return problems
        self._accepted = record_of(offer, etag, now)
        self._counts_before = dict(self._counts())
        self._metrics.serves(offer.revision, now)
        await self._record(offer.keep)
        self._etag = etag
        return ()

    async def _record(self, keep: Collection[str]) -> None:
        """Record on disk what serves. If that fails, the next pull tries again."""
        accepted = self._accepted
        if accepted is not None:
            self._recorded = None
            await asyncio.to_thread(self._store.accept, accepted, keep)
            self._recorded = accepted

    async def _judge_candidate(self, target: Target | None) -> None:
        """Judge the present revision of a release in the shadow, while this edge serves the previous one.

        What fails here changes nothing for the revision in service: it is logged, and shown on `/config`.
        """
        digest = None if target is None else target.digest
        if digest == self._candidate:
            return
        folder, problems = None, []
        if target is not None:
            try:
                bundle, archive = await bundle_of(self._settings, target, self._store)
                await asyncio.to_thread(self._store.put, bundle, archive)
                folder = self._store.folder_of(target.digest)
            except (FetchError, BundleError, OSError) as error:
                problems.append(str(error))
        problems += await self._reloader.judge_candidate(self._store.serving, folder)
        now = self._counts()
        self._counts_before |= {name: value for name, value in now.items() if name.startswith("shadow_")}
        self._candidate = None if problems else digest
        self._candidate_problems = tuple(problems[:MAX_PROBLEMS])
        if target is not None and problems:
            _log.warning("candidate cannot be judged", revision=target.revision, problems=problems)
        elif target is not None:
            _log.info("candidate judged next to the revision in service", revision=target.revision)

    async def _note_release(self, offer: Offer, etag: str) -> None:
        """Record a release file by which this edge serves on what it serves."""
        before = self._accepted
        if before is not None:
            noted = replace(before, release=offer.release)
            if offer.content:  # of a release file, which may have been signed again
                noted = replace(
                    noted, content=offer.content, issued_at=offer.issued_at, expires_at=offer.expires_at
                )
            if noted != before:
                self._accepted = replace(noted, etag=etag)
        if self._recorded is not self._accepted:
            await self._record(offer.keep)
        self._etag = etag

    @property
    def _is_good(self) -> bool:
        return self._last is not None and self._last.outcome.good

    @property
    def _revision(self) -> str:
        return "" if self._accepted is None else self._accepted.revision

    def _note(self, pull: Pull) -> None:
        known, self._last = self._last, pull
        self._metrics.pulled(pull.outcome, pull.unix_seconds)
        news = known is None or (known.outcome, known.revision, known.problems) != (
            pull.outcome,
            pull.revision,
            pull.problems,
        )
        if pull.outcome is not PullOutcome.UNCHANGED:
            self._history.append(pull)
        if self._reporter is not None and news:
            self._reporter.changed()
        if pull.outcome is PullOutcome.ACTIVATED:
            _log.info("bundle activated", revision=pull.revision)
        elif not pull.outcome.good and news:
            _log.error(
                "bundle not activated; the last good one serves on",
                outcome=pull.outcome,
                revision=pull.revision,
                serving=self._revision,
                problems=pull.problems,
            )

    def describe(self) -> dict[str, Any]:
        """The bundle in service and the last pulls, for `/config`."""
        accepted = self._accepted
        return {
            "url": without_query(self._settings.url),
            "node": self.node_id,
            "revision": self._revision,
            "sequence": None if accepted is None else accepted.order,
            "digest": None if accepted is None else accepted.digest,
            "release": None if accepted is None else accepted.release,
            "candidate": self._candidate,
            "candidate_problems": list(self._candidate_problems),
            "last_pull": None if self._last is None else self._last.describe(),
            "pulls": [pull.describe() for pull in reversed(self._history)],
        }

    def status(self) -> dict[str, Any]:
        """What is reported to the control plane."""
        accepted = self._accepted
        counts = {name: now - self._counts_before.get(name, 0) for name, now in self._counts().items()}
        return {
            "node": self.node_id,
            "process": self._settings.folder.name,
            "metadata": dict(self._settings.node.metadata),
            "revision": self._revision,
            "sequence": None if accepted is None else accepted.order,
            "release": None if accepted is None else accepted.release,
            "candidate": self._candidate,
            "candidate_problems": list(self._candidate_problems),
            "counts": counts,
            "last_pull": None if self._last is None else self._last.describe(),
        }
