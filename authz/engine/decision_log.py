"""Logs decisions as lines of JSON. It may drop lines, which it counts; it never changes or delays a response.

The request path only appends a decision to a bounded queue. A task turns queued decisions into lines and
passes them to a writer. While the writer stalls or fails, the queue fills; then new decisions are dropped
and counted.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import orjson
import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.engine.decision_record import DecisionRecord, Masking
from authz.policy.rule import Outcome

FLUSH_SECONDS: Final = 0.2
"""The longest wait of a line. The task wakes by itself, so that no request pays for waking it."""

BATCH: Final = 256
"""Lines written at a time: about 1 ms of the loop, which answers requests between batches."""

RETRY_SECONDS: Final = 1.0
"""The pause between attempts while the writer fails: a full disk does not empty faster."""

_log = structlog.get_logger("authz")


class Writer(Protocol):
    """Writes lines somewhere, without I/O on the event loop. Raises an Exception for a batch not written."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Write all of `lines` or none."""

    async def close(self) -> None:
        """Close the destination."""


class DecisionLog(Collector):
    """Queues decisions and writes them from a task. Call all methods on the event loop's thread.

    `allow_sample_rate` is the share of allows that is logged, from 0 to 1. Denials, errors and decisions that
    a shadow rule would have changed are always logged. `random` returns numbers in [0, 1).
    """

    def __init__(
        self,
        writer: Writer,
        masking: Masking,
        *,
        random: Callable[[], float],
        allow_sample_rate: float = 1.0,
        queue_lines: int = 10_000,
    ) -> None:
        self._writer = writer
        self._masking = masking
        self._random = random
        self._allow_sample_rate = allow_sample_rate
        self._queue_lines = queue_lines
        self._queue: deque[DecisionRecord] = deque()
        self._failing = False
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.written = 0
        self.dropped = 0
        self.sampled_out = 0

    def put(self, record: DecisionRecord) -> None:
        """Queue a record, unless sampling skips it or the queue is full."""
        if (
            self._allow_sample_rate < 1.0
            and record.verdict.outcome is Outcome.ALLOW
            and record.shadow is None
            and self._random() >= self._allow_sample_rate
        ):
            self.sampled_out += 1
        elif len(self._queue) >= self._queue_lines:
            self.dropped += 1
        else:
            self._queue.append(record)

    def start(self) -> None:
        """Start the task that writes."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, seconds: float) -> None:
        """Write queued records for at most `seconds`, count the rest as dropped, and close the writer."""
        self._ending.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
            self._task.cancel()
            self._task = None
        if self._queue:
            _log.warning("decisions not logged", lines=len(self._queue))
        self.dropped += len(self._queue)
        self._queue.clear()
        await self._writer.close()

    def state(self) -> dict[str, Any]:
        """Return the number of lines waiting, written, dropped and sampled out, and whether writing fails."""
        return {
            "waiting": len(self._queue),
            "written": self.written,
            "dropped": self.dropped,
            "sampled_out": self.sampled_out,
            "failing": self._failing,
        }

    def collect(self) -> Iterable[Metric]:
        """Return the counts for Prometheus."""
        lines = CounterMetricFamily(
            "authz_decision_log_lines",
            "Decisions by the result of their log line: written, dropped (full queue) or sampled_out.",
            labels=["result"],
        )
        for result in ("written", "dropped", "sampled_out"):
            lines.add_metric([result], getattr(self, result))
        yield lines

    async def _run(self) -> None:
        while True:
            if self._queue and await self._write_batch():
                continue
            if self._ending.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._failing else FLUSH_SECONDS):
                    await self._ending.wait()

    async def _write_batch(self) -> bool:
        """Write the oldest lines and return whether that succeeded; if not, they stay queued."""
        batch = list(islice(self._queue, BATCH))
        try:
            await self._writer.write([_line(self._masking.to_dict(record)) for record in batch])
        except Exception as error:  # whatever is wrong with the log must stay with the log
            if not self._failing:
                self._failing = True
                _log.error("decision log cannot be written", error=str(error))
            return False
        if self._failing:
            self._failing = False
            _log.warning("decision log is written again", dropped=self.dropped)
        self.written += len(batch)
        for _ in batch:
            self._queue.popleft()
        return True


def _line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
