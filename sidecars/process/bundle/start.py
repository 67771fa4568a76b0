"""The bundle that a process starts with: the one it kept, or the first that the server has."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from common.configfile import SETTINGS, ConfigError, Problem
from common.os_errors import in_words
from sidecars.process.reload import Reloader
from sidecars.services.sidecar import Dependencies
from sidecars.settings.bundle import BundleSettings
from sidecars.settings.in_bundle import in_bundle, sections_in_bundle
from sidecars.settings.load import Reading
from sidecars.settings.root import Settings

if TYPE_CHECKING:  # else a sidecar without bundles would load authz, 26 MB
    from sidecars.process.bundle.puller import BundlePuller

RETRY_SECONDS: Final = 1.0
"""The pause between two requests for the first bundle."""

_log = structlog.get_logger("sidecars.bundle")


@dataclass(frozen=True, slots=True)
class Start:
    """Settings whose paths lead into a bundle on disk."""

    reading: Reading
    built: Callable[[], None] = lambda: None
    """To be called once the sidecars are built of it: records a first bundle as accepted."""


@contextmanager
def start_with_bundle(reading: Reading, process: str) -> Iterator[Start]:
    """Provide the bundle that `process` starts with, if the settings name one, and its folder until the end.

    `process` names the folder, such as `all-0`. Waits for the server for at most `bundle.start_seconds`.
    Raises ConfigError.
    """
    settings = reading.settings
    if settings is None or settings.bundle is None or reading.problems:
        yield Start(reading)
        return
    from sidecars.process.bundle.store import BundleInUseError, BundleStore

    own = settings.bundle.of_process(process)
    settings = settings.model_copy(update={"bundle": own})
    store = BundleStore(own.folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(store.locked())
            built = _provide(own) if sections_in_bundle(settings) else _nothing
        except BundleInUseError:
            raise _problem(
                "folder", f"{own.folder} is in use by another process; give each its own"
            ) from None
        except OSError as error:
            raise _problem("folder", f"{own.folder}: {in_words(error)}") from None
        yield Start(_into(reading, settings, store.serving), built)


def _nothing() -> None:
    """Do nothing: there is no first bundle to be recorded."""


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


def _provide(settings: BundleSettings) -> Callable[[], None]:
    """Make `serving` lead to a bundle; what is returned records it as accepted."""
    from edge.bundle.errors import BundleError
    from sidecars.process.bundle.offer import bounds_of, trust_of
    from sidecars.process.bundle.store import BundleStore

    store = BundleStore(settings.folder)
    try:
        if store.restore(trust_of(settings), bounds_of(settings)) is not None:
            return _nothing
    except BundleError as error:
        _log.error("the bundle kept on disk cannot be used", folder=str(settings.folder), problem=str(error))
    return asyncio.run(_first(settings))


async def _first(settings: BundleSettings) -> Callable[[], None]:
    from authz.credentials.core.http import FetchError
    from edge.bundle.errors import BundleError
    from sidecars.process.bundle.offer import offer_of
    from sidecars.process.bundle.source import fetch
    from sidecars.process.bundle.store import Accepted, BundleStore

    give_up_at = time.monotonic() + settings.start_seconds
    store = BundleStore(settings.folder)
    while True:
        try:
            fetched = await fetch(settings, max_bytes=settings.max_bytes)
            now = time.time()
            offer = await offer_of(settings, fetched.body or b"", None, store, now)
        except (FetchError, BundleError) as error:
            if time.monotonic() + RETRY_SECONDS >= give_up_at:
                raise _problem("url", f"no bundle to start with: {error}") from None
            _log.warning("waiting for the first bundle", problem=str(error))
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if offer.new is not None:
            store.put(*offer.new)
        store.switch(offer.digest)
        accepted = Accepted(offer.digest, offer.revision, offer.order, fetched.etag, now, offer.release)
        return lambda: store.accept(accepted, offer.keep)


def _problem(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(SETTINGS, 0, f"bundle.{key}", message)])
