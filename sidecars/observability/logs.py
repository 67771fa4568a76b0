"""The process's log on stderr: structlog and the standard library's loggers, as JSON or for people.

A log line must never hold up an answer to Envoy, and a write to stderr blocks when its reader
stalls. So a line is queued, and a thread of its own formats and writes it.
"""

import logging
import queue
import sys
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Final, TextIO, cast

import orjson
import structlog

from sidecars.settings.process import LogSettings

MAX_WAITING_LINES: Final = 10_000
"""While the reader of stderr stalls, lines beyond this are dropped and counted: some 10 MB of them."""


class Logs:
    """The configured log of this process. `stop` writes out what waits.

    Configuring structlog and the root logger is global by their nature; the last `Logs` made wins.
    """

    def __init__(self, settings: LogSettings, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        waiting: queue.Queue[Any] = queue.Queue(MAX_WAITING_LINES)
        self._handler = _Enqueue(waiting)
        writer = logging.StreamHandler(stream)
        writer.setFormatter(_formatter(settings, colours=stream.isatty()))
        self._listener = _Writer(waiting, writer)
        self._listener.start()
        level = settings.level.upper()
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(level)
        structlog.configure(
            processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )

    def stop(self) -> None:
        """Write the queued lines and end the thread."""
        logging.getLogger().handlers[:] = []
        self._listener.stop()


class _Writer(QueueListener):
    def enqueue_sentinel(self) -> None:
        # Waits for room, where the base raises queue.Full just when lines were dropped.
        cast("queue.Queue[Any]", self.queue).put(None)


class _Enqueue(QueueHandler):
    dropped = 0
    _reported = 0

    def prepare(self, record: logging.LogRecord) -> Any:
        return record  # the base formats here, on the loop; the writer does it in its thread

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
            if self.dropped > self._reported:
                lines, self._reported = self.dropped - self._reported, self.dropped
                structlog.get_logger("sidecars.process").warning("log lines were dropped", lines=lines)
        except queue.Full:
            self.dropped += 1


def _timestamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # A record of a standard logger comes here in the writer's thread, later than it was made.
    record = event.get("_record")
    seconds = time.time() if record is None else record.created
    event["timestamp"] = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return event


_COMMON: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    _timestamp,
    structlog.stdlib.PositionalArgumentsFormatter(),
    # A plain traceback: the richer ones print local variables, and those hold tokens.
    structlog.processors.format_exc_info,
]


def _formatter(settings: LogSettings, *, colours: bool) -> logging.Formatter:
    renderer: structlog.typing.Processor
    if settings.format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_json, default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=colours)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def _json(event: Any, default: Any, **_: Any) -> str:
    return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS).decode()
