"""Logs what Envoy asks about that no limit is for."""

from collections.abc import Callable

import structlog

from ratelimit.decision import LimitPlan
from ratelimit.unmatched import LONGEST_QUIET_SECONDS, NO_KEYS, why

_log = structlog.get_logger("sidecars.ratelimit")


class UnmatchedLog:
    """Logs unknown domains, and the shapes of descriptors that no rule matches.

    The first of a shape is logged at once, and later ones after a minute, two, four, up to an hour. A reload
    starts again. Descriptors without entries are what Envoy makes of `skip_if_absent`, and are not logged.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def note(self, plan: LimitPlan) -> None:
        """Log what of `plan` has not been logged for long enough."""
        now = self._clock()
        for shape, descriptor in plan.unmatched:
            if now < shape.quiet_until or shape.keys == NO_KEYS:
                continue
            shape.quiet_until = now + shape.quiet_seconds
            shape.quiet_seconds = min(LONGEST_QUIET_SECONDS, 2 * shape.quiet_seconds)
            reason = why(plan.limits, plan.request.domain, descriptor)
            if shape.keys is None:
                event = "requests for an unknown domain are not limited"
                _log.warning(event, domain=shape.domain, reason=reason, requests=shape.count)
            else:
                event = "descriptors without a limit"
                _log.warning(event, domain=shape.domain, keys=shape.keys, reason=reason, count=shape.count)
