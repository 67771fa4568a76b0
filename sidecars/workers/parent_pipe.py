"""The pipe on a worker's standard input that ties it to its supervisor.

It carries the settings as the supervisor read them, so that a worker restarted next week has those of its
siblings, even if the file has changed. Then it stays open, and its end means stop: on request, or because
the supervisor has ended in any way. (PR_SET_PDEATHSIG would need a call into libc, and is sent when the
thread ends that started the child, not its process: prctl(2).)
"""

import asyncio
import os
import pickle
import struct
from collections.abc import Callable
from threading import Thread
from typing import BinaryIO, Final

from sidecars.settings.root import Settings

_LENGTH: Final = struct.Struct("!I")


def settings_message(settings: Settings) -> bytes:
    """`settings` as `receive_settings` takes them."""
    # Pickled, not JSON, which would show secrets as asterisks. Both ends are the same code, and only the
    # parent holds the other end of the pipe.
    body = pickle.dumps(settings)
    return _LENGTH.pack(len(body)) + body


def receive_settings(pipe: BinaryIO) -> Settings:
    """The settings that the supervisor sent. Raises OSError when there is none."""
    body = _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])
    settings: Settings = pickle.loads(body)  # noqa: S301  # see `settings_message`
    return settings


def on_parent_exit(descriptor: int, stop: Callable[[], None], force_exit: Callable[[], None]) -> None:
    """Call `stop` on the running loop, and `force_exit` in a thread, when the pipe ends.

    In a thread, because a loop that hangs must not outlive its supervisor either.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        try:
            while os.read(descriptor, 64):
                pass
        except OSError:
            pass  # closed: as good as ended
        force_exit()
        try:
            loop.call_soon_threadsafe(stop)
        except RuntimeError:
            return  # the loop is closed: it has stopped by itself

    Thread(target=wait, name="parent-pipe", daemon=True).start()


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise OSError("no settings on standard input: only a supervisor starts a worker")
    return data
