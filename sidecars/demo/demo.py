"""`sidecars demo`: start an edge, send requests through it, show the results."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console

from sidecars.demo.edge import Edge, serve_edge
from sidecars.demo.envoy import EnvoyError, find_envoy, scripts_folder
from sidecars.demo.login import NO_LOGIN, can_run
from sidecars.demo.process import ProcessError
from sidecars.demo.redis import NO_REDIS, find_redis, serve_redis
from sidecars.demo.rows import rows
from sidecars.demo.scenario import RowResult, check_log, is_of_a_row, send
from sidecars.demo.screen import print_screen
from sidecars.demo.show import POLICY_LINES, curl_lines, print_policy_lines, print_results

DEFAULT_PORT: Final = 10000
MAX_SOCKET_PATH_BYTES: Final = 107
"""sockaddr_un holds 108 bytes on Linux, the last one NUL (unix(7))."""
LOG_SECONDS: Final = 20.0
"""Envoy sends its access log once a second."""
LOG_POLL_SECONDS: Final = 0.1

OK, FAILED = 0, 1


def run(*, once: bool, port: int = DEFAULT_PORT, environment: Mapping[str, str] | None = None) -> int:
    """Run the demo and return the exit code: 1 if something did not start or, with `once`, a row failed."""
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="edge-sidecars-", dir=_short_folder()) as folder:
            outcome = _demo(Path(folder), environment or os.environ, console, once=once, port=port)
            return asyncio.run(outcome)
    except (EnvoyError, ProcessError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return FAILED


async def play(edge: Edge) -> list[RowResult]:
    """Return the results of all rows, with their access log lines."""
    results = [await send(edge, number, row) for number, row in enumerate(await rows(edge), start=1)]
    expected = sum(len(result.answers) for result in results)
    check_log(results, await log_lines(edge.places.access_log, at_least(expected)))
    return results


Lines = list[dict[str, Any]]


async def log_lines(access_log: Path, enough: Callable[[Lines], bool]) -> Lines:
    """Return the access log lines as soon as there are enough, else those after LOG_SECONDS."""
    lines: Lines = []
    for _ in range(round(LOG_SECONDS / LOG_POLL_SECONDS)):
        lines = await asyncio.to_thread(_read_lines, access_log)
        if enough(lines):
            break
        await asyncio.sleep(LOG_POLL_SECONDS)
    return lines


def at_least(number: int) -> Callable[[Lines], bool]:
    """The number of lines that is enough."""
    return lambda lines: sum(map(is_of_a_row, lines)) >= number


async def _demo(
    folder: Path, environment: Mapping[str, str], console: Console, *, once: bool, port: int
) -> int:
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop_requested.set)
    if not _is_free(port):
        console.print(f"Port {port} is taken; Envoy gets another.", style="yellow")
        port = 0
    console_port = _free_port(port + 1 if port else 0)
    find_envoy(environment, scripts_folder())  # without rows nothing need be started
    async with AsyncExitStack() as running:
        redis_url = await _redis(folder, environment, running, console)
        if not can_run():
            console.print(NO_LOGIN, style="yellow", markup=False, soft_wrap=True)
        edge = await running.enter_async_context(
            serve_edge(
                folder,
                environment,
                port=port,
                redis_url=redis_url,
                console_port=console_port,
                login=can_run(),
                progress=console.print,
            )
        )
        console.print(f"Envoy listens on {edge.url}. Sending requests ...\n")
        results = await play(edge)
        print_results(console, results)
        failed = _print_verdict(results, console)
        if once:
            print_policy_lines(console)
        else:
            await _stay(edge, console_port, stop_requested, console)
    return FAILED if once and failed else OK


async def _redis(
    folder: Path, environment: Mapping[str, str], running: AsyncExitStack, console: Console
) -> str | None:
    """Return the URL of a Redis that runs as long as `running`; None if there is no server to run."""
    executable = find_redis(environment)
    if executable is None:
        console.print(NO_REDIS, style="yellow", markup=False, soft_wrap=True)
        return None
    console.print(f"Starting Redis ({executable}) ...", markup=False, soft_wrap=True)
    return await running.enter_async_context(serve_redis(executable, folder))


def _print_verdict(results: Sequence[RowResult], console: Console) -> int:
    """Print the results and return the number of failed rows."""
    sent = [result for result in results if not result.row.skipped]
    failed = sum(bool(result.problems) for result in sent)
    if failed:
        console.print(f"\n{failed} of {len(sent)} did not do what they should.", style="red")
    else:
        console.print(f"\nAll {len(sent)} did what they should.", style="green")
    if len(sent) < len(results):
        console.print(f"{len(results) - len(sent)} were skipped.", style="yellow")
    return failed


async def _stay(edge: Edge, console_port: int, stop_requested: asyncio.Event, console: Console) -> None:
    session = await edge.admin.create_session("dave", ("orders:read",))
    more = edge.places.folder / "try.sh"
    more.write_text("\n".join((*curl_lines(edge, session), *POLICY_LINES, "")), encoding="utf-8")
    print_screen(console, edge, session, console_port, more)
    await stop_requested.wait()
    console.print("\nStopping ...")


def _is_free(port: int) -> bool:
    """Return whether the port is free. Envoy would silently share it with another Envoy (SO_REUSEPORT)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(wanted: int) -> int:
    """Return `wanted` if the port is free, else another one that is."""
    if 0 < wanted < 65536 and _is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _short_folder() -> str | None:
    """Return a parent folder for which socket paths are short enough; None for the default."""
    longest = len(os.fsencode(tempfile.gettempdir())) + len("/edge-sidecars-xxxxxxxx/envoy-admin.sock")
    return None if longest <= MAX_SOCKET_PATH_BYTES else "/tmp"  # noqa: S108  # mkdtemp makes a private folder in it


def _read_lines(access_log: Path) -> Lines:
    if not access_log.exists():
        return []
    whole, _, _unfinished = access_log.read_bytes().rpartition(b"\n")
    return [orjson.loads(line) for line in whole.splitlines()]
