"""Latencies as an HdrHistogram: 1 µs to 10 minutes with three significant digits."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

LARGEST_US = 600_000_000
DIGITS = 3

CURVE = (0, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 99.95, 99.99, 100)
"""The percentiles of a curve."""


def _empty() -> HdrHistogram:
    return HdrHistogram(1, LARGEST_US, DIGITS)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls took."""

    histogram: HdrHistogram = field(default_factory=_empty)

    @classmethod
    def of_seconds(cls, times: Iterable[float]) -> "Latency":
        """Return the latency of these calls."""
        latency = cls()
        record = latency.histogram.record_value
        for seconds in times:
            record(min(max(round(seconds * 1e6), 1), LARGEST_US))
        return latency

    @classmethod
    def decode(cls, text: str) -> "Latency":
        """Return what `encode` wrote, or another HdrHistogram log in base64."""
        return cls(HdrHistogram.decode(text))

    def encode(self) -> str:
        """Return the histogram in the compressed format that all HdrHistogram libraries read, in base64."""
        text: bytes = self.histogram.encode()
        return text.decode()

    @property
    def calls(self) -> int:
        """The number of calls."""
        return int(self.histogram.get_total_count())

    def us(self, percentile: float) -> float:
        """Return a percentile in microseconds; 0 without calls."""
        return float(self.histogram.get_value_at_percentile(percentile)) if self.calls else 0.0

    def curve(self) -> list[tuple[float, float]]:
        """Return percentiles and their microseconds."""
        return [(percentile, self.us(percentile)) for percentile in CURVE]

    def merged(self, *others: "Latency") -> "Latency":
        """Return the latency of the calls of all."""
        total = _empty()
        for latency in (self, *others):
            total.add(latency.histogram)
        return Latency(total)
