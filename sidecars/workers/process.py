"""One worker process under its supervisor: starts it, follows its notifications, restarts it when it ends."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from common.os_errors import in_words
from sidecars.workers.output import Output

STABLE_SECONDS: Final = 10.0
"""A worker that served this long and ends has not failed to start: it is started again at once."""

RESTART_MIN_SECONDS: Final = 0.1
RESTART_MAX_SECONDS: Final = 30.0
"""Each further failure doubles the pause, so that a crash loop leaves the CPU to the workers that serve."""

MAX_DATAGRAM_BYTES: Final = 4096
"""A notification is a line or two."""

_log = structlog.get_logger("sidecars.workers")


class WorkerPhase(StrEnum):
    """The phase of a worker."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    DRAINING = "draining"
    ENDED = "ended"
    """Will be started again, unless the supervisor stops."""


def restart_seconds(failures: int) -> float:
    """The pause before the next start, after this many failures in a row."""
    # The exponent is bounded: a crash loop that goes on for days must not end in an OverflowError.
    return min(RESTART_MAX_SECONDS, RESTART_MIN_SECONDS * 2.0 ** min(max(failures - 1, 0), 16))


class Worker:
    """Worker number `number`. `changed` is called after each change of its phase; `ended` after each end.

    It speaks to us as it would to systemd (sd_notify(3)), over a socket in `folder`, so we know when it is
    ready, reloads, stops, and whether its loop still turns.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        settings_message: bytes,
        environ: Mapping[str, str],
        folder: Path,
        output: Output,
        changed: Callable[[], None],
        ended: Callable[["Worker"], None],
        watchdog_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.phase = WorkerPhase.ENDED
        self.generation = 0
        """Counts the processes: two answers with the same generation are from the same one."""
        self.restarts = 0
        self.hung = 0
        """How often it was killed because it did not become ready or its loop hung."""
        self.exit_code: int | None = None
        """Exit code of the process that ended last: negative for a signal."""
        self.next_start_seconds: float | None = None
        """The pause before its next start, while it waits for that; else None."""
        self._command = tuple(command)
        self._settings_message = settings_message
        self._path = folder / f"{number}.notify"
        self._environ = _environ_for(environ, self._path, watchdog_seconds)
        self._output = output
        self._changed = changed
        self._ended = ended
        self._clock = clock
        self._failures = 0
        self._ready_at: float | None = None
        self._alive = False
        self._reload_due = False
        """Whether a reload was requested while it started: it may have read its files already."""
        self._stop_requested = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @property
    def pid(self) -> int | None:
        """Process id, or None when not running."""
        return None if self._child is None else self._child.pid

    @property
    def serves(self) -> bool:
        """Whether it answers calls and is not draining."""
        return self.phase in {WorkerPhase.READY, WorkerPhase.RELOADING}

    @property
    def failures(self) -> int:
        """How often in a row it ended before it had served for STABLE_SECONDS."""
        return 0 if self._is_stable() else self._failures

    @property
    def exit_description(self) -> str:
        """How the last process ended, in words."""
        code = self.exit_code
        if code is None:
            return "never"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def listen(self) -> None:
        """Bind the socket that the worker speaks to. Raises OSError."""
        self._socket.bind(str(self._path))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def close(self) -> None:
        """Stop listening."""
        if asyncio.get_running_loop().remove_reader(self._socket.fileno()):
            self._path.unlink(missing_ok=True)
        self._socket.close()

    async def run_once(self) -> int:
        """Start a process and wait for its end. Returns its exit code, negative for a signal.

        Raises OSError when it cannot be started.
        """
        self._forget_the_last_one()
        writing = self._output.pipe(self.number)
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=writing,
                env=self._environ,
                # A Ctrl-C in the terminal is for the supervisor, which passes it on once.
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._child = child
        _log.info("worker started", worker=self.number, pid=child.pid)
        stdin = child.stdin
        if stdin is not None:
            with suppress(ConnectionError):  # it has ended already, which the exit code below explains
                stdin.write(self._settings_message)
                await stdin.drain()
        if self._stop_requested.is_set():
            self.stop()  # asked for while it was being started
        code = await child.wait()
        self._note_the_end(code)
        return code

    async def run_again(self) -> None:
        """Call `run_once` again and again, after the pause that its failures call for, until `stop`."""
        while not self._stop_requested.is_set():
            self.next_start_seconds = restart_seconds(self._failures)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.next_start_seconds):
                    await self._stop_requested.wait()
                return
            self.next_start_seconds = None
            self.restarts += 1
            try:
                await self.run_once()
            except OSError as error:
                self._failures += 1
                self._enter(WorkerPhase.ENDED)
                _log.error("worker could not be started", worker=self.number, error=in_words(error))

    def reload(self) -> None:
        """Make it read its files again. While it starts it handles no signals: then once it is ready."""
        if self.serves:
            self._signal(signal.SIGHUP)
            self._enter(WorkerPhase.RELOADING)
        elif self.phase is WorkerPhase.STARTING:
            self._reload_due = True

    def stop(self) -> None:
        """Ask it to drain and end, without a restart. Further calls do nothing."""
        self._stop_requested.set()
        child = self._child
        if child is None:
            return
        if self.phase is WorkerPhase.STARTING:
            self._signal(signal.SIGTERM)  # nothing to drain, and perhaps no loop yet that watches the pipe
        if child.stdin is not None:
            child.stdin.close()

    def kill(self) -> None:
        """Kill it."""
        self._signal(signal.SIGKILL)

    def check_alive(self) -> bool:
        """Whether it started, became ready or reported a live loop since the last check, or need not."""
        alive, self._alive = self._alive, False
        return alive or self.phase in {WorkerPhase.DRAINING, WorkerPhase.ENDED}

    def _is_stable(self) -> bool:
        return self._ready_at is not None and self._clock() - self._ready_at >= STABLE_SECONDS

    def _forget_the_last_one(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(MAX_DATAGRAM_BYTES)
        self.generation += 1
        self._ready_at = None
        self._alive = True
        self._reload_due = False
        self._enter(WorkerPhase.STARTING)

    def _note_the_end(self, code: int) -> None:
        self._failures = 0 if self._is_stable() else self._failures + 1
        self._child = None
        self._ready_at = None
        self.exit_code = code
        self._ended(self)
        self._enter(WorkerPhase.ENDED)

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(MAX_DATAGRAM_BYTES).split(b"\n"):
                    self._notified(line)

    def _notified(self, line: bytes) -> None:
        if line == b"WATCHDOG=1":
            self._alive = True
        elif self.phase is WorkerPhase.DRAINING:
            return  # it drains: a reload that ends now changes nothing
        elif line == b"READY=1":
            self._alive = True
            self._ready_at = self._ready_at or self._clock()
            self._enter(WorkerPhase.READY)
            if self._reload_due:
                self._reload_due = False
                self.reload()
        elif line == b"RELOADING=1":
            self._enter(WorkerPhase.RELOADING)
        elif line == b"STOPPING=1":
            self._enter(WorkerPhase.DRAINING)

    def _enter(self, phase: WorkerPhase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self._changed()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)


def _environ_for(environ: Mapping[str, str], path: Path, watchdog_seconds: float) -> dict[str, str]:
    # systemd's own socket is the supervisor's: READY of one worker is not READY of the service.
    own = {name: value for name, value in environ.items() if name not in {"NOTIFY_SOCKET", "WATCHDOG_PID"}}
    return own | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}
