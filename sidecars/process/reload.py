"""New policy and limits without a restart; bad ones never replace good ones."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from common.configfile import ConfigError, Problem
from sidecars.observability.process_metrics import ReloadMetrics
from sidecars.process.watch import FileBaseline, Snapshot, Watcher
from sidecars.services.sidecar import JudgesCandidate, Sidecar
from sidecars.settings.process import ReloadSettings

SETTLE_SECONDS: Final = 0.1
"""A file is read once it looked the same twice: half a policy can be valid YAML without its last rules."""

SETTLE_LOOKS: Final = 50
"""A file that keeps changing is read after 5 s."""

MAX_HISTORY: Final = 20
"""Reloads of a sidecar that `/config` shows."""

_log = structlog.get_logger("sidecars.process")


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """The outcome of the last reload of a sidecar."""

    unix_seconds: float
    problems: tuple[str, ...] = ()
    revision: str = ""
    """The revision in service since; empty for a sidecar without one, and for a refused reload."""

    def describe(self) -> dict[str, Any]:
        """The outcome, as `/config` shows it."""
        at = datetime.fromtimestamp(self.unix_seconds, UTC).isoformat(timespec="seconds")
        described = {"at": at, "ok": not self.problems, "problems": list(self.problems)}
        return described | {"revision": self.revision} if self.revision else described


class Reloader:
    """Reloads sidecars when asked (SIGHUP) and when their files changed.

    `before` is what was there before each sidecar was built, by its name. `wall_clock` gives Unix seconds.
    `announce` is called with True before and False after the reloads that were asked for or found due.
    `located` adds the line of the settings file to a problem that a sidecar cannot place; it reads files.
    """

    def __init__(
        self,
        sidecars: Sequence[Sidecar],
        before: Mapping[str, FileBaseline],
        settings: ReloadSettings,
        metrics: ReloadMetrics,
        wall_clock: Callable[[], float],
        announce: Callable[[bool], None] = lambda _: None,
        located: Callable[[Problem], Problem] = lambda problem: problem,
    ) -> None:
        self._sidecars = tuple(sidecars)
        self._before = before
        self._settings = settings
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._announce = announce
        self._located = located
        self._requested = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._watchers = {sidecar.name: Watcher() for sidecar in sidecars}
        self._seen: dict[str, Snapshot] = {}
        self.outcomes: dict[str, ReloadOutcome] = {}
        """The last reload by sidecar name; a sidecar that was never reloaded is not in it."""
        self._history: dict[str, deque[ReloadOutcome]] = {}

    def history(self, name: str) -> Sequence[ReloadOutcome]:
        """The last MAX_HISTORY reloads of a sidecar, newest first."""
        return tuple(reversed(self._history.get(name, ())))

    def request_reload(self) -> None:
        """Request a reload of every sidecar, whether or not its files changed."""
        self._requested.set()

    async def remember(self) -> None:
        """Record the files as they were when the sidecars were built: these they serve."""
        for sidecar in self._sidecars:
            now = await self._take_snapshot(sidecar)
            self._seen[sidecar.name] = await asyncio.to_thread(self._before[sidecar.name].as_read, now)
            self._metrics.loaded(sidecar.name, sidecar.describe(), self._wall_clock())

    async def run(self) -> None:
        """Reload as needed until cancelled."""
        while True:
            interval = self._settings.interval_seconds if self._settings.watch else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._requested.wait()
            requested = self._requested.is_set()
            self._requested.clear()
            async with self._one_at_a_time:
                due = [one for one in self._sidecars if requested or await self._changed(one)]
                if due:
                    self._announce(True)
                    for sidecar in due:
                        await self.reload(sidecar)
                    self._announce(False)

    async def reload(self, sidecar: Sidecar) -> None:
        """Load `sidecar`'s files again and put them into service, or log why not and keep what serves."""
        name = sidecar.name
        self._metrics.attempted(name)
        self._seen[name] = await self._settled(sidecar)
        now = self._wall_clock()
        try:
            swap = await asyncio.to_thread(sidecar.prepare)
            swap()
        except ConfigError as error:
            self._refuse(name, ReloadOutcome(now, await asyncio.to_thread(self._located_problems, error)))
        except Exception as error:  # a defect in a loader must not end a process that serves
            _log.exception("loader failed", sidecar=name)
            self._refuse(name, ReloadOutcome(now, (f"internal error: {type(error).__name__}: {error}",)))
        else:
            self._loaded(sidecar, now)

    async def reload_together(self, enter: Callable[[], None], leave: Callable[[], None]) -> tuple[str, ...]:
        """Put the files that `enter` provides into service in every sidecar at once, or in none.

        `leave` undoes `enter` if a sidecar refuses them; both may block on the disk. Returns the problems.
        """
        async with self._one_at_a_time:
            self._announce(True)
            try:
                await asyncio.to_thread(enter)
                problems = await self._swap_together()
                if problems:
                    await asyncio.to_thread(leave)
            finally:
                self._announce(False)
        return problems

    async def judge_candidate(self, serving: Path, candidate: Path | None) -> tuple[str, ...]:
        """Have every sidecar that can judge what is below `candidate` next to what serves; the problems."""
        problems: list[str] = []
        async with self._one_at_a_time:
            for sidecar in self._sidecars:
                if isinstance(sidecar, JudgesCandidate):
                    try:
                        swap = await asyncio.to_thread(sidecar.prepare_candidate, serving, candidate)
                        swap()
                    except ConfigError as error:
                        problems += await asyncio.to_thread(self._located_problems, error)
        return tuple(problems)

    async def _swap_together(self) -> tuple[str, ...]:
        """Prepare every sidecar, then swap all of them in one turn of the loop. Returns the problems."""
        swaps: list[Callable[[], None]] = []
        seen: dict[str, Snapshot] = {}
        problems: list[str] = []
        for sidecar in self._sidecars:
            seen[sidecar.name] = await self._take_snapshot(sidecar)
            try:
                swaps.append(await asyncio.to_thread(sidecar.prepare))
            except ConfigError as error:
                problems += await asyncio.to_thread(self._located_problems, error)
            except Exception as error:  # as in `reload`
                _log.exception("loader failed", sidecar=sidecar.name)
                problems.append(f"internal error: {type(error).__name__}: {error}")
        if problems:
            return tuple(dict.fromkeys(problems))
        for swap in swaps:
            swap()
        self._seen |= seen
        for sidecar in self._sidecars:
            self._metrics.attempted(sidecar.name)
            self._loaded(sidecar, self._wall_clock())
        return ()

    def _loaded(self, sidecar: Sidecar, now: float) -> None:
        state = sidecar.describe()
        self._note(sidecar.name, ReloadOutcome(now, revision=str(state.get("revision") or "")))
        self._metrics.loaded(sidecar.name, state, now)
        _log.info("configuration reloaded", sidecar=sidecar.name, revision=state.get("revision"))

    def _note(self, name: str, outcome: ReloadOutcome) -> None:
        self.outcomes[name] = outcome
        self._history.setdefault(name, deque(maxlen=MAX_HISTORY)).append(outcome)

    def _located_problems(self, error: ConfigError) -> tuple[str, ...]:
        return tuple(str(self._located(problem)) for problem in error.problems)

    def _refuse(self, name: str, outcome: ReloadOutcome) -> None:
        self._note(name, outcome)
        self._metrics.failed(name)
        _log.error(
            "configuration refused; the last good one serves on", sidecar=name, problems=outcome.problems
        )

    async def _changed(self, sidecar: Sidecar) -> bool:
        return await self._take_snapshot(sidecar) != self._seen.get(sidecar.name)

    async def _settled(self, sidecar: Sidecar) -> Snapshot:
        seen = await self._take_snapshot(sidecar)
        for _ in range(SETTLE_LOOKS):
            await asyncio.sleep(SETTLE_SECONDS)
            before, seen = seen, await self._take_snapshot(sidecar)
            if seen == before:
                break
        return seen

    async def _take_snapshot(self, sidecar: Sidecar) -> Snapshot:
        # In the thread, since a sidecar may look for the files.
        return await asyncio.to_thread(lambda: self._watchers[sidecar.name].snapshot(sidecar.watched_files))
