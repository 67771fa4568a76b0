"""A family of histograms that also has the buckets of native histograms of Prometheus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class NativeBuckets:
    """The sparse buckets of one label set: each number of observations by the index of its bucket."""

    schema: int
    """Bucket i ends at 2**(i / 2**schema)."""
    zero: int
    """Observations in the zero bucket."""
    counts: Mapping[int, int]


class NativeHistogramFamily(HistogramMetricFamily):
    """`prometheus_client` knows classic histograms alone: text formats show those, protobuf also `native`."""

    native: dict[tuple[str, ...], NativeBuckets]

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        super().__init__(name, documentation, labels=labels)
        self.native = {}
        """The buckets by the values of the labels."""
