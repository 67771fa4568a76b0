"""Bans of the ratelimit sidecar: their log, metrics, and pages of the admin port."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimit.bans import Ban, Bans, Listener, as_data
from ratelimit.limiter import Limiter
from ratelimit.stats import Stats
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute

LOG_SECONDS: Final = 1.0
"""Time between two log lines about bans: clients decide how often they are banned."""

_log = structlog.get_logger("sidecars.ratelimit")


class BanLog:
    """Logs bans, at most one each LOG_SECONDS, and passes them on to `listener`."""

    def __init__(self, listener: Listener, clock: Callable[[], float]) -> None:
        self._listener = listener
        self._clock = clock
        self._quiet_until = 0.0
        self._unlogged = 0

    def banned(self, ban: Ban) -> None:
        """Log that a key was banned."""
        self._listener.banned(ban)
        now = self._clock()
        if now < self._quiet_until:
            self._unlogged += 1
            return
        self._quiet_until = now + LOG_SECONDS
        seconds = round(ban.until - ban.since)
        _log.warning(
            "banned", rule=ban.rule, descriptor=ban.descriptor, seconds=seconds, others=self._unlogged
        )
        self._unlogged = 0

    def lifted(self, key: str) -> None:
        """Pass it on; `lift` logs it."""
        self._listener.lifted(key)


class BanCollector(Collector):
    """The metrics of `bans`; `stats` names their rules."""

    def __init__(self, bans: Bans, stats: Stats) -> None:
        self._bans = bans
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        counts = self._bans.counts
        self._bans.sweep()
        yield GaugeMetricFamily(
            "ratelimit_bans", "Bans in force, also of other sidecars.", value=len(self._bans.active)
        )
        imposed = CounterMetricFamily(
            "ratelimit_bans_imposed", "Bans that this process imposed.", labels=["domain", "key1", "key2"]
        )
        by_series: dict[tuple[str, str, str], int] = {}
        for path, times in counts.imposed.items():
            series = self._stats.series(path)
            by_series[series] = by_series.get(series, 0) + times
        for series, times in by_series.items():
            imposed.add_metric(list(series), times)
        yield imposed
        for name, text, value in (
            ("refused", "Requests that a ban refused.", counts.refused),
            ("lifted", "Bans that an operator lifted at this process.", counts.lifted),
            ("evicted", "Bans that gave way to newer ones, beyond max_bans.", counts.evicted),
        ):
            yield CounterMetricFamily(f"ratelimit_bans_{name}", text, value=value)


class BanPages:
    """`GET /limits/bans` and `POST /limits/bans/lift`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    @property
    def routes(self) -> tuple[AdminRoute, ...]:
        """The pages."""
        return (
            AdminRoute("GET", "/limits/bans", self._list),
            AdminRoute("POST", "/limits/bans/lift", self._lift),
        )

    async def _list(self, _request: AdminRequest) -> AdminAnswer:
        return _answer([as_data(ban) for ban in self._limiter.bans.listed()])

    async def _lift(self, request: AdminRequest) -> AdminAnswer:
        """Lift the bans that the body names: `{"names": ["ID or DESCRIPTOR"]}`. 400 for anything else.

        415 for another content type: a page of another site cannot make a browser send JSON unasked.
        """
        if request.content_type != "application/json":
            return AdminAnswer(415, b"expected application/json\n", "text/plain")
        try:
            names = _names(orjson.loads(request.body))
        except ValueError as error:
            return AdminAnswer(400, f"{error}\n".encode(), "text/plain")
        lifted = self._limiter.bans.lift(names, self._limiter.limits.rules)
        for ban in lifted:
            _log.info("ban lifted", rule=ban.rule, descriptor=ban.descriptor)
        return _answer([as_data(ban) for ban in lifted])


def _names(body: Any) -> list[str]:
    names = body.get("names") if isinstance(body, dict) and len(body) == 1 else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    raise ValueError('expected {"names": ["ID or DESCRIPTOR", ...]}')


def _answer(found: list[dict[str, Any]]) -> AdminAnswer:
    return AdminAnswer(body=orjson.dumps(found), headers={"cache-control": "no-store"})
