"""Blocking writes to file descriptors, off the event loop."""

import asyncio
import errno
import os
import select
import stat
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

from accesslog.records.counters import DropReason
from accesslog.sinks.sink import SinkError
from common.os_errors import in_words

_T = TypeVar("_T")
_Job = Callable[[], None]

ROOM_BYTES: Final = 256 * 1024
"""The free bytes with which a file system that was full can take a batch again."""

_REASONS: Final = {
    errno.ENOSPC: DropReason.DISK_FULL,
    errno.EDQUOT: DropReason.DISK_FULL,
    errno.EPIPE: DropReason.BROKEN_PIPE,
}


def sink_error(error: OSError, target: str) -> SinkError:
    """`error` at `target` as a SinkError with its reason; a pipe without a reader is not tried again."""
    reason = _REASONS.get(error.errno or 0, DropReason.IO_ERROR)
    message = f"{target}: {in_words(error)}"
    return SinkError(reason, message, retry=reason is not DropReason.BROKEN_PIPE)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however many calls it takes. Raises OSError, perhaps after a part was written."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Standard output is shared, and another process may have made it non-blocking.
            select.select([], [descriptor], [])


def check_writable(descriptor: int) -> None:
    """Raise the OSError that a write would raise, if that can be found without writing.

    A pipe has no reader, a device refuses, a file system has no room for a batch. (A quota shows only when
    something is written.)
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        system = os.fstatvfs(descriptor)
        if system.f_bavail * system.f_frsize < ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif stat.S_ISCHR(mode):
        os.write(descriptor, b"")
    else:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0)):
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))


class WriterThread:
    """The one thread in which a sink does its blocking calls, in order.

    A daemon, unlike those of ThreadPoolExecutor: a write that hangs (a dead NFS server, a pipe without
    a reader) must not keep the process from ending.
    """

    __slots__ = ("_jobs", "_name", "_thread")

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What `function` returns or raises, called in the thread. Cancelling does not stop the call."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def job() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:  # carried over to the caller
                _on_loop(loop, future, future.set_exception, error)
            else:
                _on_loop(loop, future, future.set_result, result)

        self._jobs.put(job)
        return await future

    def end(self) -> None:
        """Let the thread end after the calls already asked for."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _on_loop(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], settle: Callable[[Any], None], value: Any
) -> None:
    def settle_if_awaited() -> None:
        if not future.done():
            settle(value)

    try:
        loop.call_soon_threadsafe(settle_if_awaited)
    except RuntimeError:
        # The loop was closed while the call hung: the outcome is no longer needed.
        return
