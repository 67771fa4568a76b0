"""Limits are compiled, and what they replace is freed, in a thread: the loop goes on answering."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from common.background import Composite, GilYielder, background_work, freeze_gc, release
from common.configfile import Document
from ratelimit.config import LARGE_LIMITS_RULES, load_limits
from ratelimit.limiter import Limiter
from ratelimit.rules import CompiledLimits
from ratelimit.stats import CountedRules, Stats
from sidecars.settings.ratelimit import RatelimitSettings


@dataclass(frozen=True, slots=True)
class PreparedLimits:
    """Limits that can be put into service at once."""

    limits: CompiledLimits
    counted: CountedRules

    def put_into_service(self, limiter: Limiter) -> None:
        """Let them decide from now on. Runs on the loop."""
        retire([limiter.use(self.limits, self.counted)])


def prepare_limits(settings: RatelimitSettings, sent: Sequence[Document], stats: Stats) -> PreparedLimits:
    """Return the limits of the settings and those `sent`, compiled. For a thread. Raises ConfigError."""
    yield_gil = GilYielder().yield_gil
    with background_work():
        limits = load_limits(settings.limits, settings.options, sent, yield_gil)
        counted = stats.counted((rule.path for rule in limits.rules), yield_gil)
        if len(limits.rules) >= LARGE_LIMITS_RULES:
            freeze_gc()  # the counters, too
    return PreparedLimits(limits, counted)


def retire(replaced: list[Composite]) -> None:
    """Free what no longer serves piece by piece; `replaced` has the last references. Runs on the loop."""
    # In a thread that waits for work: starting one would hold the loop up until it runs.
    asyncio.get_running_loop().run_in_executor(None, _release, replaced)


def _release(replaced: list[Composite]) -> None:
    release(replaced, GilYielder().yield_gil)
