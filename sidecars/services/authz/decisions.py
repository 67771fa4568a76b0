"""Reports decisions: counts them, keeps them for `/decisions`, logs and traces them.

None of it can change an answer: what fails here is logged and forgotten.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog
from prometheus_client import CollectorRegistry

from accesslog.sinks.file import FileSink
from accesslog.sinks.stdout import StdoutSink
from authz.engine.decide import Decision
from authz.engine.decision_log import DecisionLog, Writer
from authz.engine.decision_record import DecisionRecord, record_of, record_of_unreadable
from authz.engine.metrics import DecisionMetrics
from authz.engine.recent_decisions import DEFAULT_SHOWN, MAX_SHOWN, OUTCOMES, RecentDecisions, Wanted
from authz.request.request import Request
from authz.wire import CheckRequest
from common.redaction import Secrets
from sidecars.admin.routes import AdminAnswer, AdminRequest, AdminRoute
from sidecars.settings.authz import DecisionLogSettings, DecisionsSettings

_ASKED: Final = {
    "id": "decision_id",
    **{name: name for name in ("request_id", "outcome", "rule", "subject", "reason")},
}
"""What `/decisions` may be asked, and what it is called here."""

STOP_SECONDS: Final = 2.0
"""Time for the decision log to write its queue: 10,000 lines take 0.1 s unless the disk is stuck."""

_log = structlog.get_logger("sidecars.authz")
_standard_log = logging.getLogger("sidecars.authz")
"""The standard logger of the same name: it has the same level, and reads it 50 times as fast."""


class Decisions:
    """Takes note of decisions. `annotate` is also called with each record; None when tracing is off."""

    def __init__(
        self,
        settings: DecisionsSettings,
        registry: CollectorRegistry,
        random: Callable[[], float],
        annotate: Callable[[DecisionRecord], None] | None = None,
    ) -> None:
        self._metrics = DecisionMetrics()
        registry.register(self._metrics)
        masking = self._masking = settings.mask.masking
        self.recent = RecentDecisions(settings.recent, masking) if settings.recent else None
        self.log: DecisionLog | None = None
        if settings.log is not None:
            self.log = DecisionLog(
                _writer(settings.log),
                masking,
                random=random,
                allow_sample_rate=settings.log.allow_sample_rate,
                queue_lines=settings.log.queue_lines,
            )
            registry.register(self.log)
        sinks: list[Callable[[DecisionRecord], None]] = []
        if self.recent is not None:
            sinks.append(self.recent.keep)
        if self.log is not None:
            sinks.append(self.log.put)
        if annotate is not None:
            sinks.append(annotate)
        self._sinks = tuple(sinks)

    def note(self, message: CheckRequest, request: Request | None, decision: Decision, now: float) -> None:
        """Record a decision about `request`, which is None for an unreadable message. `now`: Unix seconds."""
        self._metrics.count(decision)
        if decision.detail and _standard_log.isEnabledFor(logging.DEBUG):
            # Clients choose how often, so it is for the level debug alone.
            detail = self._masking.detail(decision.detail)
            _log.debug("refused", decision_id=decision.id, reason=decision.verdict.reason, detail=detail)
        if not self._sinks:
            return
        try:
            if request is None:
                record = record_of_unreadable(message, decision, now)
            else:
                record = record_of(request, decision, now)
            for put in self._sinks:
                put(record)
        except Exception:  # see above
            _log.exception("decision not noted", decision_id=decision.id)

    def redact(self, secrets: Secrets) -> None:
        """Redact the values of these names from now on."""
        self._masking.secrets = secrets

    def start(self) -> None:
        """Begin to write the decision log."""
        if self.log is not None:
            self.log.start()

    async def stop(self) -> None:
        """Write what waits and close the decision log."""
        if self.log is not None:
            await self.log.stop(STOP_SECONDS)

    @property
    def admin_routes(self) -> Sequence[AdminRoute]:
        """`/decisions` and `/decisions/question`, where decisions are kept."""
        if self.recent is None:
            return ()
        return (
            AdminRoute("GET", "/decisions", self._shown),
            AdminRoute("GET", "/decisions/question", self._question),
        )

    async def _question(self, asked: AdminRequest) -> AdminAnswer:
        assert self.recent is not None  # noqa: S101  # the route exists only with it
        found = await _in_turns(self.recent.question(asked.query.get("id", "")))
        if not found:
            return AdminAnswer(404, b"no decision with this id is kept\n", "text/plain")
        return AdminAnswer(body=orjson.dumps(found[0]), headers={"cache-control": "no-store"})

    async def _shown(self, asked: AdminRequest) -> AdminAnswer:
        query = dict(asked.query)
        limit = query.pop("limit", str(DEFAULT_SHOWN))
        unknown = sorted(query.keys() - _ASKED.keys())
        try:
            if unknown:
                raise ValueError(f"{unknown[0]!r} is unknown; known: {', '.join(_ASKED)}, limit")
            if not limit.isascii() or not limit.isdigit() or not 0 < int(limit) <= MAX_SHOWN:
                raise ValueError(f"limit is a number from 1 to {MAX_SHOWN}")
            assert self.recent is not None  # noqa: S101  # the route exists only with it
            found = self.recent.find(self._wanted(query, int(limit)))
        except ValueError as error:
            return AdminAnswer(400, f"{error}\n".encode(), "text/plain")
        decisions = await _in_turns(found)
        body = orjson.dumps({"decisions": decisions}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return AdminAnswer(body=body, headers={"cache-control": "no-store"})

    def _wanted(self, query: Mapping[str, str], limit: int) -> Wanted:
        """Return the filters of a query. Raises ValueError for one that cannot be answered."""
        outcome = query.get("outcome", "")
        if outcome and outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
        if query.get("subject") and self._masking.hides("subject"):
            raise ValueError("subject cannot be asked for: decisions.mask hides it")
        texts = {_ASKED[key]: value for key, value in query.items() if key != "outcome"}
        return Wanted(**texts, outcome=OUTCOMES.get(outcome), limit=limit)

    def totals(self) -> dict[str, dict[str, float]]:
        """Decisions since the start, by outcome and by reason."""
        return self._metrics.totals()

    def describe(self) -> dict[str, Any]:
        """The number of kept decisions, and the counters of the decision log."""
        return {
            "recent": 0 if self.recent is None else len(self.recent),
            "log": None if self.log is None else self.log.state(),
        }


async def _in_turns(found: Iterator[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Return what was found; the loop runs at each None in between, since 100,000 records take long."""
    shown = []
    for one in found:
        if one is None:
            await asyncio.sleep(0)
        else:
            shown.append(one)
    return shown


def _writer(settings: DecisionLogSettings) -> Writer:
    return StdoutSink("decisions") if settings.file is None else FileSink(settings.file, "decisions")
