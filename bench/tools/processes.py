"""Processes pinned to cores: the server on one, the load on another."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_PAGE_BYTES = resource.getpagesize()


def server_core() -> int:
    """The core of every server under test, only one of which is under load at a time."""
    return min(os.sched_getaffinity(0))


def load_core() -> int:
    """The core of the load; the core of the server if the machine has only one."""
    return max(os.sched_getaffinity(0))


@contextmanager
def running(command: Sequence[str], core: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` pinned to `core`, and end it after the block."""
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def run(command: Sequence[str], core: int) -> str:
    """Return the output of `command`, pinned to `core`. Raises CalledProcessError if it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.sched_setaffinity(process.pid, {core})
        output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return output.decode()


@contextmanager
def python_server(module: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a module of ours as a server: it prints its port on a line once it accepts connections."""
    with running([sys.executable, "-m", module, *arguments], server_core()) as process:
        assert process.stdout is not None  # noqa: S101  # asked for with PIPE
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError(f"{module} {' '.join(arguments)} did not start; its error is above")
        yield process, int(line)


def free_port() -> int:
    """Return a free port, for a program that cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Return once a server accepts connections on `port`. Raises TimeoutError."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"no process listens on 127.0.0.1:{port}")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, as the kernel counts it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads that a process has, as the kernel's scheduler counts it."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def allow_open_files(wanted: int) -> int:
    """Raise the limit of open files to `wanted` if allowed, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    granted = max(soft, min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    return granted
