"""`/totals`: a few sums of what a process has done since its start, for pages that show rates.

`/metrics` has a series for each rule, and takes long where there are thousands.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class OffersTotals(Protocol):
    """A sidecar that sums up what it did."""

    @property
    def name(self) -> str:
        """Its name."""

    def totals(self) -> Mapping[str, Mapping[str, float]]:
        """Counts since the start by kind, such as `outcomes`, and by name."""


def totals_of(sidecars: Sequence[Any]) -> dict[str, Any]:
    """The totals of each of `sidecars` that offers any, by its name."""
    return {sidecar.name: sidecar.totals() for sidecar in sidecars if isinstance(sidecar, OffersTotals)}


def add_up(several: Sequence[Any]) -> Any:
    """The sum of numbers; of mappings and lists, that of each of their parts."""
    first = several[0]
    if isinstance(first, Mapping):
        names = dict.fromkeys(name for one in several for name in one)
        return {name: add_up([one[name] for one in several if name in one]) for name in names}
    if isinstance(first, list):
        return [add_up(parts) for parts in zip(*several, strict=True)]
    return sum(several)
