"""Runs several worker processes instead of one, each with sockets of its own.

The supervisor serves no calls. It starts the workers, starts a dead one again, passes signals on, and answers
on the main admin address for all of them.
"""

import asyncio
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from common.os_errors import in_words
from common.socket_folder import SocketFolder
from sidecars.admin.server import admin_site
from sidecars.console.front import ConsoleFront, runtime_folder
from sidecars.observability.process_metrics import package_version
from sidecars.process.lifecycle import drain_at_most_seconds
from sidecars.process.notify import Notifier
from sidecars.settings.per_worker import PLACEHOLDER, address_of
from sidecars.settings.root import Settings
from sidecars.transport.api.address import UnixAddress
from sidecars.workers.admin_proxy import AdminProxy
from sidecars.workers.metrics import MetricTotals
from sidecars.workers.output import Output
from sidecars.workers.parent_pipe import settings_message
from sidecars.workers.process import Worker, WorkerPhase

KILL_AFTER_SECONDS: Final = 2.0
"""Added to the time in which a worker forces its own exit."""

WATCHDOG_SECONDS: Final = 10.0
"""How often a worker must report that its loop is live; it does so twice as often."""

LOOKS_BEFORE_KILL: Final = 3
"""A machine under load may make a worker miss one; a worker that misses three does not serve."""

START_SECONDS: Final = 60.0
"""For a worker to become ready. It waits for nothing outside, and reads 10,000 rules in a few seconds; one
that takes so long hangs, on a disk that is gone for example, and the next one may find it there."""

CRASH_LOOP_FAILURES: Final = 3
"""Consecutive failures from which the log names a crash loop."""

OUTPUT_SECONDS: Final = 1.0
"""Time for the last lines of the workers to be passed on."""

_log = structlog.get_logger("sidecars.workers")


def supervise(settings: Settings, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run `settings.workers` workers until SIGTERM or SIGINT; the exit code.

    `command` starts one once its number is added. Raises OSError when the admin address cannot be bound.
    """
    with _private_folder(environ) as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Supervisor(settings, command, environ, folder).run())


class Supervisor:
    """Does nothing until `run`, which is called once. `folder` holds private sockets."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        watchdog_seconds: float = WATCHDOG_SECONDS,
        start_seconds: float = START_SECONDS,
    ) -> None:
        own_admin = settings.admin.workers or UnixAddress(f"{folder}/{PLACEHOLDER}.admin", 0o600)
        settings = settings.model_copy(
            update={"admin": settings.admin.model_copy(update={"workers": own_admin})}
        )
        self._settings = settings
        self._environ = environ
        self._watchdog_seconds = watchdog_seconds
        self._looks_at_a_start = math.ceil(start_seconds / watchdog_seconds)
        self._notifier = Notifier(environ)
        self._output = Output()
        self._totals = MetricTotals()
        self._stop_requested = asyncio.Event()
        self._were_ready = False
        self._reloading = False
        self._failed_start: Worker | None = None
        text = settings_message(settings)
        self._workers = [
            Worker(
                number,
                (*command, str(number)),
                text,
                environ,
                folder,
                self._output,
                self._on_change,
                self._on_end,
                watchdog_seconds,
            )
            for number in range(settings.workers)
        ]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(WorkerCollector(self._workers))
        self._pages = AdminProxy(
            self._workers,
            [address_of(own_admin, number) for number in range(settings.workers)],
            self._readiness,
            registry,
            self._totals,
            settings.admin,
            plain_counters=settings.ratelimit is not None and settings.ratelimit.metrics == "envoyproxy",
        )
        self._admin = admin_site(settings.admin, self._pages.app)
        self._console: ConsoleFront | None = None
        if settings.admin.console:
            self._console = ConsoleFront(self._admin.serve_privately, runtime_folder(environ))
            self._pages.add_console(self._console)

    async def run(self) -> int:
        """Start the workers, restart them until told to stop, drain them, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)
        monitor_tasks: list[asyncio.Task[None]] = []
        background: list[asyncio.Task[None]] = []
        try:
            self._pages.open()
            _log.info("admin listening", address=await self._admin.start())
            self._warn()
            for worker in self._workers:
                worker.listen()
            monitor_tasks = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            background = [
                asyncio.create_task(self._watch_loops()),
                asyncio.create_task(self._notifier.feed_watchdog()),
            ]
            await self._stop_requested.wait()
        finally:
            code = await self._drain(monitor_tasks, background)
        return code

    async def _keep(self, worker: Worker) -> None:
        try:
            await worker.run_once()
        except OSError as error:
            _log.error("worker could not be started", worker=worker.number, error=in_words(error))
        if self._were_ready:
            await worker.run_again()
        elif not self._stop_requested.is_set():
            # It has logged why. What fails at the first start fails at the second: a port that is taken.
            self._failed_start = worker
            self._stop_requested.set()

    async def _drain(
        self, monitor_tasks: list[asyncio.Task[None]], background: list[asyncio.Task[None]]
    ) -> int:
        at_most_seconds = drain_at_most_seconds(self._settings.drain) + KILL_AFTER_SECONDS
        self._notifier.send("STOPPING=1", "STATUS=draining")
        _log.info("draining", at_most_seconds=at_most_seconds)
        for task in background:
            task.cancel()
        in_service = [
            worker for worker in self._workers if worker.phase is not WorkerPhase.STARTING and worker.pid
        ]
        for worker in self._workers:
            worker.stop()
        if monitor_tasks:
            _, late = await asyncio.wait(monitor_tasks, timeout=at_most_seconds)
            for worker in self._workers if late else ():
                if worker.pid is not None:
                    _log.error("worker did not end in time and is killed", worker=worker.number)
                    worker.kill()
            for error in await asyncio.gather(*monitor_tasks, return_exceptions=True):
                if error is not None:
                    _log.error("failed while stopping", exc_info=error)
        for worker in self._workers:
            worker.close()
        await asyncio.to_thread(self._output.finish, OUTPUT_SECONDS)
        if self._console is not None:
            await self._console.stop()
        await self._pages.close()
        await self._admin.stop()
        self._notifier.close()
        _log.info("stopped")
        if self._failed_start is not None:
            return max(self._failed_start.exit_code or 0, 1)
        return int(any(worker.exit_code for worker in in_service))

    async def _watch_loops(self) -> None:
        missed = dict.fromkeys(self._workers, 0)
        while True:
            # Checks are counted, not seconds: while the supervisor itself hung, no worker is late.
            await asyncio.sleep(self._watchdog_seconds)
            for worker in self._workers:
                missed[worker] = 0 if worker.check_alive() else missed[worker] + 1
                starts = worker.phase is WorkerPhase.STARTING
                if missed[worker] >= (self._looks_at_a_start if starts else LOOKS_BEFORE_KILL):
                    missed[worker] = 0
                    worker.hung += 1
                    what = "does not become ready" if starts else "hangs"
                    _log.error(f"worker {what} and is killed", worker=worker.number, pid=worker.pid)
                    worker.kill()

    def _warn(self) -> None:
        workers, limits = self._settings.workers, self._settings.ratelimit
        if limits is not None and limits.store == "memory":
            _log.warning(
                "ratelimit.store: memory counts in each worker by itself: a client may pass as many times "
                "a limit as there are workers; store: redis counts for all of them",
                workers=workers,
            )

    def _readiness(self) -> tuple[bool, str]:
        if self._stop_requested.is_set():
            return False, "draining"
        waiting = [worker for worker in self._workers if not worker.serves]
        if not waiting:
            return True, "ready"
        return False, "\n".join(
            ["degraded" if self._were_ready else "starting", *(_state(worker) for worker in waiting)]
        )

    def _on_change(self) -> None:
        if self._stop_requested.is_set():
            return
        serving = sum(worker.serves for worker in self._workers)
        status = f"STATUS={serving} of {len(self._workers)} workers ready"
        reloading = any(worker.phase is WorkerPhase.RELOADING for worker in self._workers)
        if not self._were_ready:
            if serving < len(self._workers):
                return
            self._were_ready = True
            self._notifier.send("READY=1", status)
            _log.info("ready", workers=serving, version=package_version())
        elif reloading and not self._reloading:
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1e6)}", status)
        elif self._reloading and not reloading:
            self._notifier.send("READY=1", status)
        else:
            self._notifier.send(status)
        self._reloading = reloading

    def _on_end(self, worker: Worker) -> None:
        self._totals.ended(str(worker.number))
        if self._stop_requested.is_set():
            return
        loop = worker.failures >= CRASH_LOOP_FAILURES
        _log.error(
            "worker is in a crash loop" if loop else "worker ended",
            worker=worker.number,
            how=worker.exit_description,
            failures_in_a_row=worker.failures,
        )

    def _on_stop_signal(self, name: str) -> None:
        if self._stop_requested.is_set():
            for worker in self._workers:
                worker.kill()
            os._exit(1)  # asked twice: the caller no longer wants to wait
        _log.info("stop asked", signal=name)
        self._stop_requested.set()

    def _on_reload_signal(self) -> None:
        for worker in self._workers:
            worker.reload()


class WorkerCollector:
    """Prometheus metrics of the workers, collected by the supervisor."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yield the state and the counts of each worker."""
        ready = GaugeMetricFamily("sidecars_worker_ready", "1 while the worker serves.", labels=["worker"])
        failures = GaugeMetricFamily(
            "sidecars_worker_consecutive_failures",
            "How often in a row it ended within 10 seconds of serving.",
            labels=["worker"],
        )
        restarts = CounterMetricFamily(
            "sidecars_worker_restarts", "How often it was started again.", labels=["worker"]
        )
        hung = CounterMetricFamily(
            "sidecars_worker_watchdog_kills",
            "How often it was killed because its event loop hung.",
            labels=["worker"],
        )
        for worker in self._workers:
            label = [str(worker.number)]
            ready.add_metric(label, worker.serves)
            failures.add_metric(label, worker.failures)
            restarts.add_metric(label, worker.restarts)
            hung.add_metric(label, worker.hung)
        yield from (ready, failures, restarts, hung)


def _state(worker: Worker) -> str:
    text = f"worker {worker.number}: {worker.phase}"
    if worker.exit_code is not None:
        text += f", ended by {worker.exit_description}"
    if worker.failures > 1:
        text += f", {worker.failures} times in a row"
    if worker.next_start_seconds is not None:
        text += f", next start after {worker.next_start_seconds:g} s"
    return text


@contextmanager
def _private_folder(environ: Mapping[str, str]) -> Iterator[Path]:
    """A folder of our own for sockets: in systemd's RuntimeDirectory= where there is one."""
    try:
        folder = SocketFolder(runtime_folder(environ))
    except OSError as error:
        text = f"workers need a folder for sockets: {in_words(error)}; set TMPDIR to one that can be written"
        raise OSError(text) from None
    try:
        yield folder.path
    finally:
        folder.remove()
