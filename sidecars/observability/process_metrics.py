"""Metrics of the process itself."""

import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from common import lru_cache


@cache
def package_version() -> str:
    """The version of edge-sidecars that runs; `unknown` in a checkout that was never installed.

    It is read once: that takes half a millisecond, and the files may be those of a newer version later.
    """
    try:
        return version("edge-sidecars")
    except PackageNotFoundError:
        return "unknown"


def is_compiled() -> bool:
    """Whether the modules of the request path run as C (docs/compiled.md). One speaks for all of them."""
    return not str(lru_cache.__file__).endswith(".py")


def process_metrics(registry: CollectorRegistry, transport: str, wall_clock: Callable[[], float]) -> None:
    """Register memory, CPU, file descriptors, garbage collection, the clock and what is running.

    Leaves out the `_created` series of all metrics, which the sums over several workers cannot have either.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Gauge(
        "sidecars_clock_timestamp_seconds",
        "The clock of the host at the time of the scrape, by which tokens expire.",
        registry=registry,
    ).set_function(wall_clock)
    Info("build", "What is running.", registry=registry).info(
        {
            "version": package_version(),
            "python": platform.python_version(),
            "transport": transport,
            "compiled": "yes" if is_compiled() else "no",
        }
    )


class ReloadMetrics:
    """Metrics of the loading of each sidecar's policy, limits and other files."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["sidecar"], registry=registry)

        self._reloads = counter("sidecars_config_reload", "Reloads attempted.")
        self._failures = counter(
            "sidecars_config_reload_failures", "Reloads refused; the last good files serve on."
        )
        self._failed = Gauge(
            "sidecars_config_last_reload_failed",
            "1 while the files on disk were refused and the last good ones serve.",
            ["sidecar"],
            registry=registry,
        )
        self._loaded = Gauge(
            "sidecars_config_loaded_timestamp_seconds",
            "When what serves now was loaded.",
            ["sidecar"],
            registry=registry,
        )
        self._revision = Gauge(
            "sidecars_config_revision_info",
            "What serves now: always 1.",
            ["sidecar", "revision"],
            registry=registry,
        )
        self._revisions: dict[str, str] = {}

    def loaded(self, sidecar: str, state: dict[str, Any], now: float) -> None:
        """Record that `sidecar` has served the configuration in `state` since `now`, in Unix seconds."""
        self._reloads.labels(sidecar)
        self._failures.labels(sidecar)
        self._failed.labels(sidecar).set(0)
        self._loaded.labels(sidecar).set(now)
        before = self._revisions.get(sidecar)
        if before is not None:
            self._revision.remove(sidecar, before)
            del self._revisions[sidecar]
        if "revision" in state:
            self._revisions[sidecar] = str(state["revision"])
            self._revision.labels(sidecar, self._revisions[sidecar]).set(1)

    def attempted(self, sidecar: str) -> None:
        """Count the start of a reload."""
        self._reloads.labels(sidecar).inc()

    def failed(self, sidecar: str) -> None:
        """Record a refused reload."""
        self._failed.labels(sidecar).set(1)
        self._failures.labels(sidecar).inc()
