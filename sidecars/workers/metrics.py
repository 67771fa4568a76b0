"""One /metrics made of those of all workers.

Counters, histograms and summaries are summed. So are untyped samples: here those are ratelimit's counters,
under the names that envoyproxy/ratelimit gave them. Of the exemplars of a bucket, the newest is shown. Of
anything else (gauges, quantiles) a sum may mean nothing, so each worker keeps its own, with a label `worker`.

A sum must not fall, as Prometheus would take that for a restart of everything: what a worker that has ended
was last seen to have counted stays in the sums, and so does what a worker counted of a series that it shows
no more (a rule that a reload removed). A sum has no moment at which it was created, so `_created` samples are
left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from prometheus_client.samples import Exemplar

LABEL: Final = "worker"

MAX_HIDDEN: Final = 200_000
"""Counts of series that no worker shows any more, kept so that a sum does not fall when one comes back.
Rules that are renamed at each reload would else fill the memory of the supervisor."""

_SUMMED_TYPES: Final = frozenset({"counter", "histogram", "summary", "unknown"})

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, str, _Labels]
"""Family, sample and labels in order: what may stand once in a page."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a page says once of a family."""

    documentation: str
    type: str


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one source said at one moment, in two parts."""

    kinds: Mapping[str, _Kind]
    summed: Mapping[_Key, float]
    own: Mapping[_Key, float]
    exemplars: Mapping[_Key, Exemplar] = field(default_factory=dict)


def scrape(families: str | Iterable[Metric]) -> Scrape:
    """The samples of `families`, or of a page in either format. Raises ValueError."""
    found = _parsed(families) if isinstance(families, str) else families
    kinds: dict[str, _Kind] = {}
    summed: dict[_Key, float] = {}
    own: dict[_Key, float] = {}
    exemplars: dict[_Key, Exemplar] = {}
    for metric in found:
        kinds[metric.name] = _Kind(metric.documentation, metric.type)
        for sample in metric.samples:
            if sample.name.endswith("_created"):
                continue
            sums = metric.type in _SUMMED_TYPES and "quantile" not in sample.labels
            key = (metric.name, sample.name, tuple(sorted(sample.labels.items())))
            (summed if sums else own)[key] = sample.value
            if sums and sample.exemplar is not None:
                exemplars[key] = sample.exemplar
    return Scrape(kinds, summed, own, exemplars)


def _parsed(page: str) -> Iterable[Metric]:
    if page.endswith("# EOF\n"):
        return parse_openmetrics(page)  # type: ignore[no-untyped-call, no-any-return]
    return parse_classic(page)


@dataclass(slots=True)
class _Seen:
    """A worker's process as it was seen so far."""

    last: Scrape = field(default_factory=lambda: Scrape({}, {}, {}))
    counted: dict[_Key, float] = field(default_factory=dict)
    """The latest value of each summed sample it ever showed."""


class MetricTotals:
    """What all workers have counted, those that have ended included.

    Bounded by what one worker may export, times the workers there are, and by MAX_HIDDEN.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._seen: dict[str, _Seen] = {}
        self._before: defaultdict[_Key, float] = defaultdict(float)
        """What was counted by processes that ended, or that began again from 0."""
        self._left: set[_Key] = set()
        """The metrics that are shown although no worker counts them (yet)."""

    def saw(self, worker: str, found: Scrape) -> None:
        """`worker` answered with `found`."""
        seen = self._seen.setdefault(worker, _Seen())
        self._kinds.update(found.kinds)
        for key, value in found.summed.items():
            known = seen.counted.get(key, 0.0)
            if value < known:
                self._before[key] += known
            seen.counted[key] = value
        self._left.difference_update(seen.last.summed.keys() - found.summed.keys())
        seen.last = found
        self._forget_beyond_the_bound()

    def ended(self, worker: str) -> None:
        """`worker` has ended; the next one under its name begins from 0."""
        seen = self._seen.pop(worker, None)
        if seen is not None:
            self._left.update(seen.last.summed)
            for key, value in seen.counted.items():
                self._before[key] += value

    def families(self, fresh: Iterable[str]) -> Iterator[Metric]:
        """The sums over all that was ever seen, and the other samples of the workers `fresh`.

        One of these that has ended since it answered is in the sums only: its gauges are dropped.
        """
        samples: dict[str, dict[tuple[str, _Labels], float]] = {}
        for key in self._shown():
            value = self._before.get(key, 0.0)
            value += sum(seen.counted.get(key, 0.0) for seen in self._seen.values())
            family, sample, labels = key
            samples.setdefault(family, {})[sample, labels] = value
        for worker in fresh:
            seen = self._seen.get(worker)
            for (family, sample, labels), value in seen.last.own.items() if seen is not None else ():
                samples.setdefault(family, {})[sample, _labelled(labels, worker)] = value
        exemplars = self._exemplars()
        for name, values in samples.items():
            kind = self._kinds[name]
            metric = Metric(name, kind.documentation, kind.type)
            for (sample, labels), value in values.items():
                metric.add_sample(sample, dict(labels), value, exemplar=exemplars.get((name, sample, labels)))
            yield metric

    def _exemplars(self) -> dict[_Key, Exemplar]:
        """The newest exemplar of each sample that has any."""
        newest: dict[_Key, Exemplar] = {}
        for seen in self._seen.values():
            for key, exemplar in seen.last.exemplars.items():
                known = newest.get(key)
                if known is None or float(known.timestamp or 0) < float(exemplar.timestamp or 0):
                    newest[key] = exemplar
        return newest

    def _shown(self) -> dict[_Key, None]:
        """The samples that a worker shows, or that one showed which has ended, in the order of the pages."""
        shown: dict[_Key, None] = {}
        for seen in self._seen.values():
            shown |= dict.fromkeys(seen.last.summed)
        return shown | dict.fromkeys(key for key in self._before if key in self._left)

    def _forget_beyond_the_bound(self) -> None:
        counts: tuple[dict[_Key, float], ...] = (self._before, *(one.counted for one in self._seen.values()))
        shown = sum(len(one.last.summed) for one in self._seen.values()) + len(self._left)
        if sum(map(len, counts)) <= MAX_HIDDEN + shown:
            return
        kept = self._shown()
        for count in counts:
            for key in [key for key in count if key not in kept]:
                del count[key]


def _labelled(labels: _Labels, worker: str) -> _Labels:
    return labels if any(name == LABEL for name, _ in labels) else (*labels, (LABEL, worker))
