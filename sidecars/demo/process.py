"""Runs a child process with a log file, waits for it and ends it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.05
LOG_TAIL_BYTES: Final = 4096


class ProcessError(Exception):
    """A child process exited, or did not become ready."""


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running child."""

    name: str
    child: asyncio.subprocess.Process
    log_file: Path

    async def until_ready(self, is_ready: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Return once `is_ready`.

        Raises ProcessError, with the end of its log, if it does not become ready.
        """
        try:
            async with asyncio.timeout(seconds):
                while not await is_ready():
                    if self.child.returncode is not None:
                        ended = f"{self.name} ended with {self.child.returncode}"
                        raise ProcessError(f"{ended}:\n{self.log_tail()}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            late = f"{self.name} was not ready after {seconds:g} seconds"
            raise ProcessError(f"{late}:\n{self.log_tail()}") from error

    def log_tail(self) -> str:
        """Return the last lines of its output."""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    async def stop(self, seconds: float) -> int:
        """Terminate it, and kill it after `seconds`. Returns its exit code, negative for a signal."""
        with suppress(ProcessLookupError):
            self.child.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.child.wait(), seconds)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.child.kill()
            return await self.child.wait()


@asynccontextmanager
async def spawn(
    name: str,
    command: Sequence[str],
    log_file: Path,
    *,
    stop_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[ChildProcess]:
    """Run `command` during the block, with its output in `log_file`, and end it afterwards."""
    # Opened once, within milliseconds, before anything is served.
    with log_file.open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            # Ctrl-C must reach only this process, which ends its children in order.
            start_new_session=True,
        )
    process = ChildProcess(name, child, log_file)
    try:
        yield process
    finally:
        await process.stop(stop_seconds)
