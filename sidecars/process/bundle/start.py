"""The bundle that a process starts with: the one it kept, or the first that the server has."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from common.configfile import SETTINGS, ConfigError, Problem
from common.os_errors import in_words
from sidecars.process.reload import Reloader
from sidecars.services.sidecar import Dependencies
from sidecars.settings.bundle import BundleSettings
from sidecars.settings.in_bundle import as_far_as_kept, in_bundle, sections_in_bundle
from sidecars.settings.load import Reading
from sidecars.settings.root import Settings

if TYPE_CHECKING:  # else a sidecar without bundles would load cryptography, 11 MB
    from sidecars.process.bundle.puller import BundlePuller
    from sidecars.process.bundle.store import Accepted

RETRY_SECONDS: Final = 1.0
"""The pause between two requests for the first bundle."""

_log = structlog.get_logger("sidecars.bundle")


class Start:
    """Settings whose paths lead into a bundle on disk, if they name one."""

    def __init__(self, reading: Reading, bundle: BundleSettings | None = None) -> None:
        self.reading = reading
        self._bundle = bundle
        self._record: Callable[[], None] | None = None

    def provide(self) -> None:
        """Make the paths lead to the bundle that is kept or, without one, the first that the server has."""
        if self._bundle is not None and not _restored(self._bundle):
            self._record = asyncio.run(_first(self._bundle))

    def replace(self) -> bool:
        """Make them lead to a newer bundle, as the one that is kept cannot be used; whether there is one."""
        if self._bundle is None or self._record is not None:
            return False
        self._record = asyncio.run(_newer(self._bundle))
        return self._record is not None

    def built(self) -> None:
        """Record a bundle that was fetched as accepted, once the sidecars are built of it."""
        if self._record is not None:
            self._record()


@contextmanager
def start_with_bundle(reading: Reading, process: str) -> Iterator[Start]:
    """Provide the bundle that `process` starts with, if the settings name one, and its folder until the end.

    `process` names the folder, such as `all-0`. Waits for the server for at most `bundle.start_seconds`.
    Raises ConfigError.
    """
    settings = reading.settings
    if settings is not None and reading.problems:
        # Nothing is fetched, so files in a bundle are not missing.
        yield Start(replace(reading, settings=as_far_as_kept(settings)[0]))
        return
    if settings is None or settings.bundle is None:
        yield Start(reading)
        return
    from sidecars.process.bundle.store import BundleInUseError, BundleStore

    own = settings.bundle.of_process(process)
    settings = settings.model_copy(update={"bundle": own})
    store = BundleStore(own.folder)
    start = Start(_into(reading, settings, store.serving), own if sections_in_bundle(settings) else None)
    with ExitStack() as stack:
        try:
            stack.enter_context(store.locked())
            start.provide()
        except BundleInUseError:
            text = f"{own.folder} is in use by another process; give each its own"
            raise _problem("folder", text) from None
        except OSError as error:
            raise _problem("folder", f"{own.folder}: {in_words(error)}") from None
        yield start


def bundle_puller(
    settings: BundleSettings | None,
    reloader: Reloader,
    dependencies: Dependencies,
    sums: Callable[[], Mapping[str, Any]],
) -> "tuple[BundlePuller, ...]":
    """Return what pulls bundles, where the settings name a server of them.

    `sums` gives what the sidecars of the process have counted (`Process.totals`).
    """
    if settings is None:
        return ()
    from edge.bundle.errors import BundleError
    from sidecars.observability.bundle_metrics import PullMetrics
    from sidecars.process.bundle.puller import BundlePuller
    from sidecars.process.bundle.store import BundleStore

    try:
        accepted = BundleStore(settings.folder).accepted()
    except BundleError:  # `start_with_bundle` has said so, and the next pull replaces it
        accepted = None
    return (
        BundlePuller(
            settings,
            accepted,
            reloader,
            PullMetrics(dependencies.registry),
            wall_clock=dependencies.wall_clock,
            monotonic_clock=dependencies.monotonic_clock,
            random=dependencies.random,
            counts=lambda: _counts(sums()),
        ),
    )


def _counts(sums: Mapping[str, Any]) -> dict[str, float]:
    """The counts of a status report (`edge.release.gate.COUNTS`) in the sums of `Process.totals`."""
    calls = sums["calls"].values()
    authz = sums["sidecars"].get("authz", {})
    outcomes, candidate = authz.get("outcomes", {}), authz.get("candidate", {})
    return {
        "calls": sum(one["ended"] for one in calls),
        "call_seconds": sum(one["seconds"] for one in calls),
        "decisions": sum(outcomes.values()),
        "denied": outcomes.get("deny", 0),
        "errors": outcomes.get("error", 0),
        "shadow_same": candidate.get("same", 0),
        "shadow_changed": candidate.get("changed", 0),
    }


def _into(reading: Reading, settings: Settings, folder: Path) -> Reading:
    return replace(reading, settings=in_bundle(settings, folder))


def _restored(settings: BundleSettings) -> bool:
    """Make `serving` lead to the bundle that is kept; whether there is one."""
    from edge.bundle.errors import BundleError
    from sidecars.process.bundle.offer import bounds_of, trust_of
    from sidecars.process.bundle.store import BundleStore

    try:
        return BundleStore(settings.folder).restore(trust_of(settings), bounds_of(settings)) is not None
    except BundleError as error:
        _log.error("the bundle kept on disk cannot be used", folder=str(settings.folder), problem=str(error))
        return False


async def _first(settings: BundleSettings) -> Callable[[], None]:
    """Make `serving` lead to the first bundle that the server has; what is returned records it.

    It is not older than the one that was accepted last, even if that one cannot be read from the disk.
    """
    from authz.credentials.core.http import FetchError
    from edge.bundle.errors import BundleError
    from sidecars.process.bundle.store import BundleStore

    try:
        known = BundleStore(settings.folder).accepted()
    except BundleError:  # `_restored` has said so
        known = None
    give_up_at = time.monotonic() + settings.start_seconds
    while True:
        try:
            return await _fetched(settings, known, again=True) or _nothing
        except (FetchError, BundleError) as error:
            if time.monotonic() + RETRY_SECONDS >= give_up_at:
                raise _problem("url", f"no bundle to start with: {error}") from None
            _log.warning("waiting for the first bundle", problem=str(error))
            await asyncio.sleep(RETRY_SECONDS)


async def _newer(settings: BundleSettings) -> Callable[[], None] | None:
    """Make `serving` lead to a newer bundle than the one that is kept; None if the server has none."""
    from authz.credentials.core.http import FetchError
    from edge.bundle.errors import BundleError
    from sidecars.process.bundle.store import BundleStore

    try:
        return await _fetched(settings, BundleStore(settings.folder).accepted())
    except (FetchError, BundleError) as error:
        _log.warning("no newer bundle than the one kept on disk, which cannot be used", problem=str(error))
        return None


async def _fetched(
    settings: BundleSettings, kept: "Accepted | None", *, again: bool = False
) -> Callable[[], None] | None:
    """Make `serving` lead to what the server offers; None if that is `kept`, unless it may come `again`.

    Raises as `offer_of`.
    """
    from sidecars.process.bundle.offer import offer_of, record_of
    from sidecars.process.bundle.source import fetch
    from sidecars.process.bundle.store import BundleStore

    store = BundleStore(settings.folder)
    fetched = await fetch(settings, max_bytes=settings.max_bytes)
    now = time.time()
    body = fetched.body or b""
    offer = await offer_of(settings, body, kept, store, now)
    if offer.new is None and again:
        offer = await offer_of(settings, body, None, store, now)
    if offer.new is None:
        return None
    store.put(*offer.new)
    store.switch(offer.digest)
    return lambda: store.accept(record_of(offer, fetched.etag, now), offer.keep)


def _nothing() -> None:
    """Record nothing."""


def _problem(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(SETTINGS, 0, f"bundle.{key}", message)])
