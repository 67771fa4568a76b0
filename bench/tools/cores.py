"""Which core each part of a run with Envoy gets."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """With two cores Envoy has one, and the others share the second: Envoy is saturated first."""

    envoy: int
    sidecars: int
    upstream: int
    load: int


def cores() -> Cores:
    """Return the cores for this machine."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(*(allowed[min(place, len(allowed) - 1)] for place in range(4)))
