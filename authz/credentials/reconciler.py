"""Writes revocations again that Redis lost in a failover."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from authz.credentials.core.store_errors import StoreUnavailableError
from authz.credentials.revocation.revocation_list import (
    LOADED_AT_ONCE,
    Revocation,
    Revocations,
    RevocationsFullError,
)
from authz.credentials.session.verifier import Sessions
from common.background import background_work

SPREAD_SECONDS: Final = 2.0
"""The longest random start delay, so that most sidecars find the work already done."""

RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 5.0
"""The delay between attempts doubles up to this: a replica refuses writes until it becomes the master."""

_log = structlog.get_logger(__name__)


class RevocationReconciler:
    """Compares the revocations of this process with those in Redis, and writes what Redis lacks.

    Runs in the background: messages still arrive, and a Redis that refuses writes does no harm.
    """

    def __init__(
        self, sessions: Sessions | None, revocations: Revocations | None, random: Callable[[], float]
    ) -> None:
        self._sessions = sessions
        self._revocations = revocations
        self._random = random
        self.kept: list[Revocation] = []
        """The revocations that Redis held when last read."""

    async def run(self) -> None:
        """Return once Redis holds every revocation known here, after as many attempts as needed."""
        failures = 0
        while not await self._succeeds(failures):
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(failures, 8))
            failures += 1
            await asyncio.sleep(delay * (1 - 0.5 * self._random()))
        while self.kept:  # in pieces: freeing all of it at once would hold the loop for milliseconds
            del self.kept[-LOADED_AT_ONCE:]
            await asyncio.sleep(0)

    async def _succeeds(self, failures: int) -> bool:
        """Return whether no further attempt is needed."""
        try:
            written = await self._attempt()
        except RevocationsFullError as error:
            _log.error("revocations not restored", problem=str(error))
            return True
        except Exception as error:  # any error: sidecars that start later would miss the revocations
            if not failures:
                expected = isinstance(error, StoreUnavailableError)
                _log.warning("revocations not restored yet", problem=str(error), exc_info=not expected)
            return False
        if written or failures:
            _log.warning("revocations restored", written=written)
        return True

    async def _attempt(self) -> int:
        written = 0 if self._sessions is None else await self._sessions.restore()
        revocations = self._revocations
        if revocations is None or revocations.store is None or not await self._missing(revocations):
            return written
        await asyncio.sleep(SPREAD_SECONDS * self._random())
        self.kept = await revocations.store.load(revocations.limit)
        missing = await self._missing(revocations)
        await revocations.store.add(missing, revocations.config.max_entries)
        return written + len(missing)

    async def _missing(self, revocations: Revocations) -> list[Revocation]:
        # A garbage collection among a hundred thousand new objects would hold the loop for 0.1 s.
        with background_work():
            return await revocations.missing_in(self.kept)
