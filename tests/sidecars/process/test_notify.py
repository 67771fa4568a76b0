"""sd_notify(3) against a real datagram socket."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecars.process.notify import Notifier


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        yield receiver


def test_assignments_go_to_the_socket_in_one_datagram(systemd: socket.socket, tmp_path: Path) -> None:
    systemd.bind(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.send("READY=1", "STATUS=serving")
    assert systemd.recv(1024) == b"READY=1\nSTATUS=serving"
    notifier.close()


def test_an_abstract_socket_is_written_with_an_at_sign(systemd: socket.socket) -> None:
    systemd.bind("")  # the kernel picks an abstract name
    name = systemd.getsockname().decode().replace("\0", "@")
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.send("READY=1")
    assert systemd.recv(1024) == b"READY=1"
    notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.send("READY=1")
    notifier.close()


def test_a_supervisor_that_is_gone_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.send("READY=1")
    notifier.close()
    notifier.send("STOPPING=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environ, pid=7).watchdog_seconds == seconds
