"""Forks a child for each evaluation from a process that has imported all that it needs.

An evaluation takes milliseconds, and its imports take most of a second. `serve` runs in a process that
`sandbox` starts; its standard input is a socket of the console.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from selectors import EVENT_READ, BaseSelector, DefaultSelector
from socket import AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM, recv_fds, socket, socketpair
from struct import Struct
from typing import Final, NoReturn, Self

from sidecars.console.priority import end_first

MAX_MEMORY_BYTES: Final = 384 * 1024 * 1024
"""Address space. An evaluation takes 160 MiB of it, with 10,000 rules 190."""
MAX_CPU_SECONDS: Final = 10
MAX_SECONDS: Final = 60
"""Much longer than the CPU time it may use: where all cores are busy it gets a tenth of one at most."""
MAX_OPEN_FILES: Final = 64
MOST_EXPENDABLE: Final = 1000

LEFT_OPEN: Final = 65_536
"""Descriptors below this are closed at the start."""

SOCKETS: Final = 2
"""Sockets in each message of the console: that of the child, and that of its end."""
FORKED: Final = b"f"
"""What the server sends on the socket of the end once the child runs."""
EXIT_CODE: Final = Struct("!i")
"""What the server sends there when the child has ended; negative for a signal."""

_PR_SET_PDEATHSIG: Final = 1


def serve(work: Callable[[], None]) -> None:
    """Fork a child that does `work` for each message on standard input, until that ends.

    A message brings two sockets. The child reads its question from the first as its standard input, and
    writes its answer to it as its standard output. On the second the server sends FORKED and the exit code;
    when the console closes it, the server kills the child. Children end with the server.
    """
    os.closerange(3, LEFT_OPEN)  # uvloop passes on what the console had from its own parents
    # Children have it, too, and no descriptor above it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    control = socket(AF_UNIX, SOCK_SEQPACKET, fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    with control, _Children(work) as children, DefaultSelector() as selector:
        selector.register(control, EVENT_READ)
        selector.register(children.woken, EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    message, descriptors = _received(control)
                    if not message:
                        return
                    if end := children.fork(descriptors):
                        selector.register(end, EVENT_READ)
                elif key.fileobj is children.woken:
                    children.woken.recv(4096)
                    for end in children.reap():
                        _unregister(selector, end)
                        end.close()
                elif isinstance(key.fileobj, socket):  # the console sends nothing on it, so it has closed it
                    children.kill(key.fileobj)
                    _unregister(selector, key.fileobj)


def _received(control: socket) -> tuple[bytes, list[int]]:
    """Return the next message and its sockets; nothing at the end of the console."""
    try:
        message, descriptors, _, _ = recv_fds(control, 1, SOCKETS)
    except OSError:
        return b"", []
    return message, descriptors


def _unregister(selector: BaseSelector, end: socket) -> None:
    # A child may end while the console closes its socket: the second of both events finds it done.
    with suppress(KeyError, ValueError):
        selector.unregister(end)


class _Children:
    """The running children, by process id, with the socket of the end of each."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._ends: dict[int, socket] = {}
        self.woken, self._waker = socketpair()
        """Becomes readable when a child has ended."""
        for one in (self.woken, self._waker):
            one.setblocking(False)

    def __enter__(self) -> Self:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends.values():
            self.kill(end)
        signal.set_wakeup_fd(-1)
        self.woken.close()
        self._waker.close()

    def fork(self, descriptors: Sequence[int]) -> socket | None:
        """Fork a child with its sockets; return that of its end, or None if the system has no more."""
        if len(descriptors) < SOCKETS:  # there were no more file descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        connection, end = descriptors
        told = socket(AF_UNIX, SOCK_STREAM, fileno=end)
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(connection)
            told.close()
            return None
        if not pid:
            _be_child(connection, server, self._work)
        os.close(connection)
        with suppress(OSError):  # the child does the same: one of both is first
            os.setpgid(pid, pid)
        self._ends[pid] = told
        told.setblocking(False)
        with suppress(OSError):  # the console has gone
            told.send(FORKED)
        return told

    def kill(self, end: socket) -> None:
        """Kill the child whose end is told on this socket, and its children."""
        for pid, told in self._ends.items():
            if told is end:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def reap(self) -> list[socket]:
        """Tell the end of each child that has ended; return their sockets."""
        told: list[socket] = []
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if end := self._ends.pop(ended[0], None):
                    with suppress(OSError):
                        end.send(EXIT_CODE.pack(os.waitstatus_to_exitcode(ended[1])))
                    told.append(end)
        return told


def _be_child(connection: int, server: int, work: Callable[[], None]) -> NoReturn:
    """Do the work with the limits set and only its connection open, and end this process."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgrp()
        _end_with(server)
        for descriptor, source in ((2, 0), (0, connection), (1, connection)):  # 0 is /dev/null
            os.dup2(source, descriptor)
        os.closerange(3, MAX_OPEN_FILES)
        _limit_resources()
        work()
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


def _end_with(server: int) -> None:
    """Have the kernel kill this process when its parent, the server, ends."""
    with suppress(AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it has ended before
        os._exit(1)


def _limit_resources() -> None:
    """Bound the memory and time of this process; forbid it to write files or dump core.

    Where memory is short all the same, as in a small container, the kernel ends this process first.
    """
    end_first(MOST_EXPENDABLE)
    signal.alarm(MAX_SECONDS)
    for what, bound in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (bound, bound))
