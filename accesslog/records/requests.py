"""Counts finished requests by route and class of response, with the histogram of their durations (RED)."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import frexp
from typing import Final

OTHER: Final = "(other)"
"""The route of requests beyond the bound. In parentheses, because few routes have such a name."""

LONGEST_ID: Final = 100
"""The longest request id of an exemplar: OpenMetrics allows 128 characters with the name of the label."""

MOST_SERIES: Final = 500
"""Label sets. Routes are named in Envoy's configuration, so a few hundred are many."""

BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """One request of a bucket, by which an operator can find out why it took so long."""

    request_id: str
    duration_us: int
    read_at: float = 0.0
    """Unix seconds of the scrape that first had it."""


SCHEMA: Final = 3
"""The resolution of native histograms: bucket i holds the durations from 2**((i-1)/8) to 2**(i/8) seconds, so
that a quantile is at most 5 % wrong."""

_FRACTIONS: Final = tuple(2 ** (step / 2**SCHEMA - 1) for step in range(2**SCHEMA))


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
    native: dict[int, int] = field(default_factory=dict)
    """Requests by duration in the buckets of a native histogram of Prometheus with `SCHEMA`."""
    zero: int = 0
    """Requests without a duration."""
    kept: list[ExampleRequest | None] = field(default_factory=list)
    """The first request of each bucket since the last scrape."""
    shown: list[ExampleRequest | None] = field(default_factory=list)
    """The example of each bucket that the last scrape had."""

    def observe(self, duration_us: int) -> bool:
        """Count one request. Returns whether its bucket lacks an example since the last scrape."""
        bucket = bisect_left(self.bounds_us, duration_us)
        self.counts[bucket] += 1
        self.sum_us += duration_us
        if duration_us > 0:
            fraction, exponent = frexp(duration_us / 1e6)
            at = bisect_left(_FRACTIONS, fraction) + (exponent - 1) * len(_FRACTIONS)
            native = self.native
            native[at] = native.get(at, 0) + 1
        else:
            self.zero += 1
        return self.kept[bucket] is None

    def keep(self, request_id: str, duration_us: int) -> None:
        """Keep a request as the example of its bucket, unless it has no usable id."""
        if 0 < len(request_id) <= LONGEST_ID and request_id.isascii() and request_id.isprintable():
            self.kept[bisect_left(self.bounds_us, duration_us)] = ExampleRequest(request_id, duration_us)

    def examples(self, now: float) -> list[ExampleRequest | None]:
        """Return an example for each bucket, and begin to look for newer ones. `now`: Unix seconds."""
        for bucket, example in enumerate(self.kept):
            if example is not None:
                self.shown[bucket] = replace(example, read_at=now)
                self.kept[bucket] = None
        return self.shown


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

    def observe(self, route: str, response_class: str, duration_us: int) -> RequestSeries | None:
        """Count one request. Returns its series if that lacks an example of such a duration."""
        series = self._series.get((route, response_class))
        if series is None:
            if len(self._series) >= self._most:
                self.overflowed += 1
                route = OTHER
            series = self._opened(route, response_class)
        return series if series.observe(duration_us) else None

    def _opened(self, route: str, response_class: str) -> RequestSeries:
        buckets = len(self._bounds_us) + 1
        series = RequestSeries(
            route,
            response_class,
            self._bounds_us,
            [0] * buckets,
            kept=[None] * buckets,
            shown=[None] * buckets,
        )
        return self._series.setdefault((route, response_class), series)

    def __iter__(self) -> Iterator[RequestSeries]:
        return iter(tuple(self._series.values()))


def response_class(code: int) -> str:
    """The class of an HTTP status (RFC 9110 section 15): `2xx`; `none` for 0, `other` outside 100 to 599."""
    if code == 0:
        return "none"
    return f"{code // 100}xx" if 100 <= code <= 599 else "other"
