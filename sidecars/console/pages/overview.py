"""The overview: rates, outcomes, latency, versions and revisions."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from sidecars.console.problems import troubles_in
from sidecars.console.source import Source, SourceError, of_each_worker
from sidecars.observability.call_metrics import BUCKET_SECONDS

SAMPLE_SECONDS: Final = 2.0
MAX_SAMPLES: Final = 150
"""Five minutes."""
WATCHED_SECONDS: Final = 60.0
"""Samples are taken for so long after the page was last shown."""
RATE_SECONDS: Final = 10.0
"""A rate is that of this time."""
LATENCY_SECONDS: Final = 60.0
CONFIG_SECONDS: Final = 5.0
"""`/config` takes the process that serves longer than `/totals`, so the page asks for it less often."""

SERVICES: Final = {
    "envoy.service.auth.v3.Authorization": "authz",
    "envoy.service.ratelimit.v3.RateLimitService": "ratelimit",
    "envoy.service.accesslog.v3.AccessLogService": "accesslog",
}
UNITS: Final = {"authz": "decisions", "ratelimit": "hits", "accesslog": "entries"}
TONES: Final = {
    **dict.fromkeys(("allow", "within_limit", "written"), "good"),
    **dict.fromkeys(("deny", "over_limit"), "warn"),
    **dict.fromkeys(("error", "dropped"), "bad"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The answer of `/totals` at a time of the monotonic clock."""

    at: float
    totals: Mapping[str, Any]

    def outcomes(self, sidecar: str) -> Mapping[str, float]:
        """The counts of a sidecar by outcome."""
        found: Mapping[str, float] = self.sums.get("sidecars", {}).get(sidecar, {}).get("outcomes", {})
        return found

    @property
    def sums(self) -> Mapping[str, Any]:
        """The numbers, over all workers."""
        found: Mapping[str, Any] = self.totals["sums"]
        return found


class Overview:
    """Samples `/totals` while someone looks, because a rate needs two of them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._looked_at = float("-inf")
        self._looked = asyncio.Event()
        self._config: list[tuple[str, Any]] = []
        self._config_at = float("-inf")

    async def sample(self) -> None:
        """Take samples until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            if time.monotonic() - self._looked_at > WATCHED_SECONDS:
                self._looked.clear()
                await self._looked.wait()
            try:
                await self._take()
            except SourceError:
                continue  # the page says so when it is shown

    async def show(self, _source: Source, _query: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of the page."""
        now = time.monotonic()
        if now - self._looked_at > WATCHED_SECONDS:
            self._samples.clear()  # those of long ago would make one long rate
        self._looked_at = now
        self._looked.set()
        newest = self._samples[-1] if self._samples else None
        if newest is None or now - newest.at > SAMPLE_SECONDS:
            newest = await self._take()
        samples = tuple(self._samples)
        names = newest.sums.get("sidecars", {})
        if now - self._config_at > CONFIG_SECONDS:
            self._config, self._config_at = of_each_worker(await self._source.get("/config")), now
        return {
            "troubles": troubles_in(self._config, newest.totals),
            "totals": newest.totals,
            "cards": [card(name, samples) for name in UNITS if name in names],
            "cpu": _rate([(one.at, float(one.sums.get("cpu_seconds", 0))) for one in samples]),
            "revisions": _revisions(newest.totals),
            "measured": len(samples) > 1,
        }

    async def _take(self) -> Sample:
        totals = await self._source.get("/totals")
        self._samples.append(Sample(time.monotonic(), totals))
        return self._samples[-1]


def card(sidecar: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what the page shows of one sidecar."""
    newest = samples[-1]
    outcomes = newest.outcomes(sidecar)
    rates = {
        name: _rate([(one.at, one.outcomes(sidecar).get(name, 0)) for one in samples]) for name in outcomes
    }
    rows = [
        {"name": name, "total": total, "rate": rates[name], "tone": TONES.get(name, "")}
        for name, total in outcomes.items()
        if total or name in TONES
    ]
    service = next(name for name, of in SERVICES.items() if of == sidecar)
    calls = [(one.at, _calls(one, service)) for one in samples]
    codes = calls[-1][1].get("codes", {})
    curve = [(at, float(found.get("ended", 0))) for at, found in calls]
    if sidecar == "accesslog":  # its calls are streams, which last
        curve = [(one.at, float(one.outcomes(sidecar).get("received", 0))) for one in samples]
    return {
        "name": sidecar,
        "unit": UNITS[sidecar],
        "rate": _rate(curve),
        "curve": _curve(curve),
        "rows": rows,
        "errors": {code: count for code, count in codes.items() if code != "OK"},
        "reasons": _largest(newest.sums["sidecars"][sidecar].get("reasons", {})),
        "quantiles": _latency(calls) if sidecar != "accesslog" else None,
    }


def quantile(buckets: Sequence[float], share: float) -> float | None:
    """Return the seconds below which this `share` of calls lies: the upper bound of its bucket.

    None without calls; infinite beyond the last bound.
    """
    total = sum(buckets)
    if not total:
        return None
    seen = 0.0
    for bound, count in zip((*BUCKET_SECONDS, float("inf")), buckets, strict=True):
        seen += count
        if seen >= share * total:
            return bound
    return float("inf")


def _calls(sample: Sample, service: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = sample.sums.get("calls", {}).get(service, {})
    return found


def _latency(calls: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    newest_at, newest = calls[-1]
    counts = list(newest.get("buckets", ()))
    since = "start"
    before = next((found for at, found in calls if newest_at - at <= LATENCY_SECONDS), newest)
    recent = [new - old for new, old in zip(counts, before.get("buckets", ()), strict=False)]
    if recent and sum(recent) > 0 and min(recent) >= 0:
        counts, since = recent, "minute"
    return {
        "since": since,
        "values": [(name, quantile(counts, share)) for name, share in (("p50", 0.5), ("p99", 0.99))],
    }


def _rate(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the growth for each second over the last RATE_SECONDS; None for a single point."""
    newest_at, newest = points[-1]
    at, before = next(point for point in points if newest_at - point[0] <= RATE_SECONDS)
    return max(0.0, newest - before) / (newest_at - at) if newest_at > at else None


def _curve(points: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """Return a line of rates for an SVG that is 100 wide and 24 high; None for fewer than three points."""
    rates = [
        max(0.0, after - before) / (later - earlier)
        for (earlier, before), (later, after) in pairwise(points)
        if later > earlier
    ]
    if len(rates) < 2:
        return None
    highest = max(rates) or 1.0
    step = 100 / (len(rates) - 1)
    line = " ".join(f"{place * step:.1f},{23 - 22 * rate / highest:.1f}" for place, rate in enumerate(rates))
    return {"points": line, "highest": max(rates)}


def _largest(counts: Mapping[str, float], most: int = 6) -> list[tuple[str, float]]:
    return sorted(counts.items(), key=lambda item: -item[1])[:most]


def _revisions(totals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each sidecar and revision, with the workers that serve it."""
    workers = totals.get("workers") or [{"worker": "", "sidecars": totals.get("sidecars", {})}]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for worker in workers:
        for sidecar, state in (worker["sidecars"] or {}).items():
            revision = str(state["revision"] or "")
            row = rows.setdefault(
                (sidecar, revision),
                {"sidecar": sidecar, "revision": revision, "workers": [], "reload": state["last_reload"]},
            )
            row["workers"].append(str(worker["worker"]))
            if state["last_reload"] and not state["last_reload"]["ok"]:
                row["reload"] = state["last_reload"]
    found = sorted(rows.values(), key=lambda row: list(UNITS).index(row["sidecar"]))
    for row in found:
        row["differs"] = sum(other["sidecar"] == row["sidecar"] for other in found) > 1
    return found
