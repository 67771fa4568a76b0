"""Decisions as lines of JSON. It can lose lines, and says so; it can never change or delay an answer.

On the way of a request a decision is only put into a bounded queue. A task makes lines of what waits and
hands them to a writer; while the writer stalls or fails the queue fills, and then new decisions are
dropped and counted.
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
"""How long a line may wait: the task wakes by itself, so that no request pays for waking it."""

BATCH: Final = 256
"""Lines made at a time, about 1 ms of the loop; requests are answered between two batches."""

RETRY_SECONDS: Final = 1.0
"""Between two attempts of a writer that fails: a full disk does not empty faster."""

_log = structlog.get_logger("authz")


class Writer(Protocol):
    """Where lines go. Does no I/O on the event loop; raises an Exception when a batch was not written."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Write all of `lines`, or none."""

    async def close(self) -> None:
        """Close what was opened."""


class DecisionLog(Collector):
    """The log: `put` from the loop's thread, `run` as a task, `stop` at the end.

    `allow_sample_rate` is the part of the allows that is logged, from 0 to 1; denials, errors and answers
    that a shadow rule would have changed are always logged. `random` gives numbers in [0, 1).
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
        self._sample_allows = allow_sample_rate
        self._queue_lines = queue_lines
        self._queue: deque[DecisionRecord] = deque()
        self._failing = False
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.written = 0
        self.dropped = 0
        self.sampled_out = 0

    def put(self, record_of: DecisionRecord) -> None:
        """Have `record_of` logged, unless sampling leaves it out or the queue is full."""
        if (
            self._sample_allows < 1.0
            and record_of.verdict.outcome is Outcome.ALLOW
            and record_of.shadow is None
            and self._random() >= self._sample_allows
        ):
            self.sampled_out += 1
        elif len(self._queue) >= self._queue_lines:
            self.dropped += 1
        else:
            self._queue.append(record_of)

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, seconds: float) -> None:
        """Write what waits, for `seconds` at most; count the rest as dropped; close the writer."""
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
        """What became of the lines so far."""
        return {
            "waiting": len(self._queue),
            "written": self.written,
            "dropped": self.dropped,
            "sampled_out": self.sampled_out,
            "failing": self._failing,
        }

    def collect(self) -> Iterable[Metric]:
        """The counts as Prometheus reads them."""
        lines = CounterMetricFamily(
            "authz_decision_log_lines",
            "Decisions by what became of their line: written, dropped (the queue was full) or sampled_out.",
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
        """Write the oldest lines; whether that succeeded. They wait on where it did not."""
        batch = list(islice(self._queue, BATCH))
        try:
            await self._writer.write([_line(self._masking.tell(record_of)) for record_of in batch])
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


def _line(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
