"""One /metrics made of those of all workers.

Counters, histograms and summaries are summed. So are untyped samples: here those are ratelimit's counters,
under the names that envoyproxy/ratelimit gave them. Of anything else (gauges, quantiles) a sum may mean
nothing, so each worker keeps its own, with a label `worker`.

A sum must not fall when a worker ends, as Prometheus would take that for a restart of everything: what a
worker that has ended was last seen to have counted stays in the sums. A sum has no moment at which it was
created, so `_created` samples are left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

LABEL = "worker"

_SUMMED_TYPES = frozenset({"counter", "histogram", "summary", "unknown"})

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, _Labels]


@dataclass(slots=True)
class _Family:
    """A metric by name: its samples by their names and labels."""

    documentation: str
    type: str
    samples: dict[_Key, float] = field(default_factory=dict)


_Families = dict[str, _Family]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one source said at one moment, in two parts."""

    summed: Mapping[str, _Family]
    own: Mapping[str, _Family]


def scrape(families: str | Iterable[Metric]) -> Scrape:
    """The samples of `families`, or of a page in Prometheus's text format. Raises ValueError."""
    found = text_string_to_metric_families(families) if isinstance(families, str) else families
    summed: _Families = {}
    own: _Families = {}
    for metric in found:
        for sample in metric.samples:
            if sample.name.endswith("_created"):
                continue
            sums = metric.type in _SUMMED_TYPES and "quantile" not in sample.labels
            family = (summed if sums else own).setdefault(
                metric.name, _Family(metric.documentation, metric.type)
            )
            family.samples[sample.name, tuple(sample.labels.items())] = sample.value
    return Scrape(summed, own)


class Totals:
    """What all workers have counted, those that have ended included.

    Bounded by what one worker may export, times the workers there are.
    """

    def __init__(self) -> None:
        self._ended: _Families = {}
        self._last: dict[str, Scrape] = {}

    def saw(self, worker: str, found: Scrape) -> None:
        """`worker` answered with `found`."""
        self._last[worker] = found

    def ended(self, worker: str) -> None:
        """`worker` has ended; the next one under its name begins from 0."""
        last = self._last.pop(worker, None)
        if last is not None:
            _add(self._ended, last.summed)

    def families(self, fresh: Iterable[str]) -> Iterator[Metric]:
        """The sums over all that was ever seen, and the other samples of the workers `fresh`.

        One of these that has ended since it answered is in the sums only: its gauges are nobody's.
        """
        sums: _Families = {}
        for summed in (self._ended, *(last.summed for last in self._last.values())):
            _add(sums, summed)
        own: _Families = {}
        for worker in fresh:
            last = self._last.get(worker)
            for name, family in last.own.items() if last is not None else ():
                into = own.setdefault(name, _Family(family.documentation, family.type)).samples
                for (sample, labels), value in family.samples.items():
                    into[sample, _labelled(labels, worker)] = value
        for name in (*sums, *(name for name in own if name not in sums)):
            yield _metric(name, [family for family in (sums.get(name), own.get(name)) if family is not None])


def _add(into: _Families, more: Mapping[str, _Family]) -> None:
    for name, family in more.items():
        samples = into.setdefault(name, _Family(family.documentation, family.type)).samples
        for key, value in family.samples.items():
            samples[key] = samples.get(key, 0.0) + value


def _labelled(labels: _Labels, worker: str) -> _Labels:
    return labels if any(name == LABEL for name, _ in labels) else (*labels, (LABEL, worker))


def _metric(name: str, families: list[_Family]) -> Metric:
    metric = Metric(name, families[0].documentation, families[0].type)
    for family in families:
        for (sample, labels), value in family.samples.items():
            metric.add_sample(sample, dict(labels), value)
    return metric
