"""Standard output of several workers, joined line by line.

Writes of many processes to one pipe are whole only up to 4096 bytes (PIPE_BUF, pipe(7)); a batch of access-
log lines is longer. So each worker has its own pipe, and one thread for each worker forwards whole lines.
"""

import os
import select
from threading import Lock, Thread
from typing import Final

import structlog

from common.os_errors import in_words

MAX_LINE_BYTES: Final = 1024 * 1024
"""Far above the longest line a sink writes (`max_record_bytes`). What has no newline by then is passed on."""

_READ_BYTES: Final = 64 * 1024
"""What a pipe holds by default."""

_log = structlog.get_logger("sidecars.workers")


class Output:
    """Passes whole lines on to `descriptor`."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._lock = Lock()
        self._threads: list[Thread] = []

    def pipe(self, worker: int) -> int:
        """The end to write to, for a child; close it here once the child has it."""
        reading, writing = os.pipe()
        # A daemon: a stdout without a reader must not keep the process from ending.
        thread = Thread(target=self._pass_on, args=(reading, worker), name=f"output {worker}", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()
        return writing

    def finish(self, seconds: float) -> None:
        """Wait until what the ended children have written is passed on, `seconds` at most for each."""
        for thread in self._threads:
            thread.join(seconds)

    def _pass_on(self, reading: int, worker: int) -> None:
        rest = b""
        try:
            while chunk := os.read(reading, _READ_BYTES):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    self._write(whole + newline)
                if len(rest) > MAX_LINE_BYTES:
                    self._write(rest)
                    rest = b""
            if rest:
                _log.warning("half a line was dropped: its writer was killed", worker=worker, bytes=len(rest))
        except OSError as error:
            # With our end closed the worker's sink gets the same error, and counts what it loses.
            _log.warning("standard output failed", worker=worker, error=in_words(error))
        finally:
            os.close(reading)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        with self._lock:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    # Shared with our parent, which may have made it non-blocking.
                    select.select([], [self._descriptor], [])
