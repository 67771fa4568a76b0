"""How a rate is divided among Envoys: by max-min fairness over what each has asked for."""

from collections.abc import Sequence
from math import inf
from typing import Final

FLOOR: Final = 0.05
"""The part of its equal share that an idle Envoy keeps, so that its first requests are not refused."""


def fair_shares(total: float, demands: Sequence[float]) -> list[float]:
    """Return the share of each demand; all shares together are `total`.

    Where `total` suffices, what is left is divided in proportion to the demands. Where it does not, no share
    can grow without one that is smaller or equal shrinking (max-min fairness). `inf` is a demand that is not
    known yet: it gets as much as any other.
    """
    if not demands:
        return []
    least = total * FLOOR / len(demands)
    wanted = [max(demand, least) for demand in demands]
    asked = sum(wanted)
    if 0 < asked <= total:
        return [want * total / asked for want in wanted]
    return _filled(total, wanted)


def _filled(total: float, wanted: Sequence[float]) -> list[float]:
    """Water-filling: the smallest demands are met, the others share the rest equally."""
    level, left = inf, total
    for served, want in enumerate(sorted(wanted)):
        equal = left / (len(wanted) - served)
        if want >= equal:
            level = equal
            break
        left -= want
    return [min(want, level) for want in wanted]
