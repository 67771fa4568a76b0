"""A supervisor and workers that hang, or say too little: real processes that speak sd_notify."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecars.settings.root import Settings
from sidecars.workers.process import RESTART_MAX_SECONDS, restart_seconds
from sidecars.workers.supervisor import Supervisor
from tests.support.running import WAIT_SECONDS


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.1), (1, 0.1), (2, 0.2), (5, 1.6), (100_000, RESTART_MAX_SECONDS)]
)
def test_the_pause_before_a_restart_doubles_to_a_bound(failures: int, seconds: float) -> None:
    assert restart_seconds(failures) == pytest.approx(seconds)


TELLS = (
    "import os, pathlib, select, signal, socket, sys, time\n"
    "def tell(text):\n"
    "    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:\n"
    "        own.sendto(text, os.environ['NOTIFY_SOCKET'])\n"
    "def told_to_stop():\n"
    "    return bool(select.select([0], [], [], 0.02)[0]) and not os.read(0, 65536)\n"
    "own = pathlib.Path(os.environ['NOTIFY_SOCKET']).parent / sys.argv[1]\n"
)
"""The start of a program that replaces a worker. `own` is the path of files that the test reads."""


def supervised(
    tmp_path: Path, program: str, until: Callable[[Supervisor], Iterator[None]], **more: float
) -> int:
    """The exit code of a supervisor of two workers that run `program` until `until` is at its end."""

    async def supervise() -> int:
        given = Settings.model_validate({"workers": 2, "admin": {"listen": f"unix:{tmp_path}/admin"}})
        command = (sys.executable, "-S", "-c", TELLS + program)
        supervisor = Supervisor(given, command, {}, tmp_path, watchdog_seconds=0.1, **more)
        task = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(2 * WAIT_SECONDS):
            for _ in until(supervisor):
                await asyncio.sleep(0.01)
        supervisor._stop_requested.set()
        return await task

    return asyncio.run(supervise())


def test_a_worker_whose_loop_stands_still_is_killed_and_started_again(tmp_path: Path) -> None:
    """A program that says it is ready, and then never that it is alive."""

    def until(supervisor: Supervisor) -> Iterator[None]:
        while not all(worker.hung and worker.restarts for worker in supervisor._workers):
            yield

    supervised(tmp_path, "tell(b'READY=1')\nwhile sys.stdin.buffer.read(1): pass\n", until)


READY_ONCE_THEN_HANGS = """
first = not own.with_suffix(".ran").exists()
own.with_suffix(".ran").touch()
if first:
    tell(b"READY=1")
    while not own.with_name("end").exists():
        tell(b"WATCHDOG=1")
        time.sleep(0.02)
    sys.exit(1)
signal.pause()
"""


def test_a_worker_that_hangs_as_it_starts_is_killed_and_started_again_ever_later(tmp_path: Path) -> None:
    def until(supervisor: Supervisor) -> Iterator[None]:
        while not supervisor._were_ready:
            yield
        (tmp_path / "end").touch()
        while not all(worker.hung >= 2 and worker.failures >= 3 for worker in supervisor._workers):
            yield
        assert {worker.exit_description for worker in supervisor._workers} == {"SIGKILL"}

    supervised(tmp_path, READY_ONCE_THEN_HANGS, until, start_seconds=3)


def test_a_first_start_that_hangs_ends_with_1(tmp_path: Path) -> None:
    def until(supervisor: Supervisor) -> Iterator[None]:
        while not supervisor._stop_requested.is_set():
            yield

    assert supervised(tmp_path, "signal.pause()\n", until, start_seconds=0.5) == 1


READY_WHEN_TOLD = """
own.with_suffix(".runs").touch()
while not own.with_name("go").exists():
    time.sleep(0.02)
signal.signal(signal.SIGHUP, lambda *_: own.with_suffix(".reloaded").touch())
tell(b"READY=1")
while not told_to_stop():
    tell(b"WATCHDOG=1")
"""


def test_a_reload_that_is_asked_for_as_workers_start_reaches_them_once_they_are_ready(tmp_path: Path) -> None:
    """They may have read their files before; before they listen for SIGHUP it would end them."""

    def until(supervisor: Supervisor) -> Iterator[None]:
        def both(suffix: str) -> bool:
            return all((tmp_path / f"{number}.{suffix}").exists() for number in (0, 1))

        while not both("runs"):
            yield
        supervisor._on_reload_signal()
        assert not both("reloaded")
        (tmp_path / "go").touch()
        while not both("reloaded"):
            yield
        assert [worker.generation for worker in supervisor._workers] == [1, 1]

    supervised(tmp_path, READY_WHEN_TOLD, until)
