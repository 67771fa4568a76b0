"""What both transports need to bind: stale socket files, file modes, errors that name the address."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import Final

from common.os_errors import in_words
from sidecars.transport.api.address import Address, UnixAddress

_CONNECT_SECONDS: Final = 1.0
"""A live server's backlog accepts at once; a full one is still a live one."""


def bind_error(address: Address, error: OSError) -> OSError:
    """`error` in our words, with the address that could not be bound."""
    if isinstance(address, UnixAddress) and error.errno == ENOENT:
        return OSError(f"cannot listen on {address}: the folder {Path(address.path).parent} does not exist")
    return OSError(f"cannot listen on {address}: {in_words(error)}")


def remove_stale_socket(address: UnixAddress) -> None:
    """Unlink the socket file that a dead server left behind.

    Raises OSError when the path holds something other than a socket, or a socket that still answers: taking
    a living server's name away would leave it running with no way in.
    """
    if address.abstract:
        return
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(address.path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                Path(address.path).unlink()
            return
        except TimeoutError:
            pass
    raise OSError("another server answers on it")


@contextmanager
def socket_mode(address: UnixAddress) -> Iterator[None]:
    """A block in which `address` is bound; its file never shows a wider mode than the one asked for.

    bind(2) creates the file with 0777 less the umask, so an owner-only umask during the bind and a chmod
    after it leave no moment in which a stranger could connect.
    """
    if address.abstract:
        yield
        return
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
    Path(address.path).chmod(address.mode)
