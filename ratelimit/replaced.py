"""Limits that were replaced: freeing them in one step would block the event loop."""

from collections.abc import Iterator
from dataclasses import dataclass

from ratelimit.decision import LimitPlan
from ratelimit.rules import CompiledLimits
from ratelimit.shapes import Shapes


@dataclass(slots=True, weakref_slot=True)
class ReplacedLimits:
    """A configuration that no longer serves, and the plans that were made by it."""

    limits: CompiledLimits
    shapes: Shapes
    recent: dict[bytes, LimitPlan]

    def parts(self) -> Iterator[object]:
        """Yield what it consists of, owners first (`common.background.release`)."""
        yield from self.recent.values()
        yield from self.shapes.parts()
        yield from self.limits.parts()
