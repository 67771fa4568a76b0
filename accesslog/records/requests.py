"""Counts finished requests by route and class of response, with the histogram of their durations (RED)."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

OTHER: Final = "(other)"
"""The route of requests beyond the bound. In parentheses, because few routes have such a name."""

MOST_SERIES: Final = 500
"""Label sets. Routes are named in Envoy's configuration, so a few hundred are many."""

BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True, eq=False)
class RequestSeries:
    """The requests of one label set."""

    route: str
    response_class: str
    """`2xx` to `5xx`; `none` where no response was sent."""
    bounds_us: Sequence[int]
    counts: list[int] = field(default_factory=list)
    """Requests by duration: one number for each bucket, and one for longer ones."""
    sum_us: int = 0

    def observe(self, duration_us: int) -> None:
        """Count one request."""
        self.counts[bisect_left(self.bounds_us, duration_us)] += 1
        self.sum_us += duration_us


class RequestCounters:
    """The series of all routes, at most `most`; further ones are counted under the route `(other)`."""

    __slots__ = ("_bounds_us", "_most", "_series", "bounds_seconds", "overflowed")

    def __init__(self, bounds_seconds: Sequence[float] = BUCKETS_SECONDS, most: int = MOST_SERIES) -> None:
        self.bounds_seconds = tuple(bounds_seconds)
        self._bounds_us = tuple(round(bound * 1_000_000) for bound in bounds_seconds)
        self._most = most
        self._series: dict[tuple[str, str], RequestSeries] = {}
        self.overflowed = 0
        """Requests that were counted as `(other)` because of the bound."""

    def observe(self, route: str, response_class: str, duration_us: int) -> None:
        """Count one request."""
        series = self._series.get((route, response_class))
        if series is None:
            if len(self._series) >= self._most:
                self.overflowed += 1
                route = OTHER
            series = self._opened(route, response_class)
        series.observe(duration_us)

    def _opened(self, route: str, response_class: str) -> RequestSeries:
        counts = [0] * (len(self._bounds_us) + 1)
        series = RequestSeries(route, response_class, self._bounds_us, counts)
        return self._series.setdefault((route, response_class), series)

    def __iter__(self) -> Iterator[RequestSeries]:
        return iter(tuple(self._series.values()))


def response_class(code: int) -> str:
    """The class of an HTTP status (RFC 9110 section 15): `2xx`; `none` for 0, `other` outside 100 to 599."""
    if code == 0:
        return "none"
    return f"{code // 100}xx" if 100 <= code <= 599 else "other"
