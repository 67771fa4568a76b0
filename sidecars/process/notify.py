"""Messages to systemd over its notification socket (sd_notify(3)): ready, reloading, stopping, alive."""

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog

from common.os_errors import in_words

_log = structlog.get_logger("sidecars.process")


class Notifier:
    """Sends to the `NOTIFY_SOCKET` of `environ`; without one, messages are discarded.

    A message that cannot be sent is logged and lost: a supervisor that does not listen stops no traffic.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ for its leading NUL. vsock addresses are for virtual machines.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self.watchdog_seconds = _watchdog_seconds(environ, os.getpid() if pid is None else pid)
        """How long systemd waits for a watchdog message, or None when it expects none."""

    def send(self, *lines: str) -> None:
        """Send assignments such as `READY=1`, `STATUS=serving`."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("systemd could not be notified", error=in_words(error))

    async def feed_watchdog(self) -> None:
        """Send watchdog messages to systemd, if it expects them, until cancelled."""
        while self.watchdog_seconds is not None:
            self.send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)  # half of it, as sd_watchdog_enabled(3) advises

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    # WATCHDOG_PID says for which process of the unit the watchdog is meant (sd_watchdog_enabled(3)).
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None
