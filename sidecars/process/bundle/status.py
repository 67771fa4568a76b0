"""Reports to the control plane what this edge serves, without ever delaying it."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from authz.credentials.core.http import FetchError
from sidecars.observability.bundle_metrics import PullMetrics
from sidecars.process.bundle.source import post_json
from sidecars.settings.bundle import StatusSettings

_log = structlog.get_logger("sidecars.bundle")


class StatusReporter:
    """Sends the present status after each change, and regularly; at most one report is under way.

    `status` returns the document.
    """

    def __init__(
        self, settings: StatusSettings, status: Callable[[], dict[str, Any]], metrics: PullMetrics
    ) -> None:
        self._settings = settings
        self._status = status
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._failing = False

    def changed(self) -> None:
        """Ask for a report soon."""
        self._changed.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._settings.interval_seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._send()

    async def _send(self) -> None:
        try:
            await post_json(self._settings, orjson.dumps(self._status()))
        except FetchError as error:
            self._metrics.reported(sent=False)
            if not self._failing:
                _log.warning("status cannot be reported", problem=str(error))
            self._failing = True
            return
        self._metrics.reported(sent=True)
        self._failing = False
