"""What Redis lost in a failover is written again by the sidecars that know it."""

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
"""Within it sidecars begin: who comes later finds the most of it written, and Redis is not asked by all."""

RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 5.0
"""Between attempts, doubled each time: a replica that is to become the master takes no writes yet."""

_LOG = structlog.get_logger(__name__)


class RevocationReconciler:
    """Compares what is known here with what Redis has, and writes what is missing there.

    Beside everything else: messages are heard meanwhile, and a Redis that takes no writes harms nothing.
    """

    def __init__(
        self, sessions: Sessions | None, revocations: Revocations | None, random: Callable[[], float]
    ) -> None:
        self._sessions = sessions
        self._revocations = revocations
        self._random = random
        self.kept: list[Revocation] = []
        """What Redis had when it was asked last."""

    async def run(self) -> None:
        """Returns once Redis has what is known here, however many attempts that takes."""
        failures = 0
        while not await self._succeeds(failures):
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(failures, 8))
            failures += 1
            await asyncio.sleep(delay * (1 - 0.5 * self._random()))
        while self.kept:  # piece by piece: at once it would take milliseconds
            del self.kept[-LOADED_AT_ONCE:]
            await asyncio.sleep(0)

    async def _succeeds(self, failures: int) -> bool:
        """Whether that was the last attempt."""
        try:
            written = await self._attempt()
        except RevocationsFullError as error:
            _LOG.error("revocations_not_restored", problem=str(error))
            return True
        except Exception as error:  # whatever it is: who starts later would not know what is revoked
            if not failures:
                expected = isinstance(error, StoreUnavailableError)
                _LOG.warning("revocations_not_restored_yet", problem=str(error), exc_info=not expected)
            return False
        if written or failures:
            _LOG.warning("revocations_restored", written=written)
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
        # A collection amid a hundred thousand new objects would hold the loop for 0.1 s.
        with background_work():
            return await revocations.missing_in(self.kept)
