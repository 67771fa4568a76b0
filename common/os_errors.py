"""What the operating system refuses, in our words: errors of files, sockets and names as text for users."""

import errno
import os
import pwd
import re
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_WORDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        errno.ENOENT: "no such file or folder",
        errno.EISDIR: "it is a folder, and a file is expected",
        errno.ENOTDIR: "a part of the path is not a folder",
        errno.EEXIST: "it exists already",
        errno.ELOOP: "its symbolic links lead in a circle",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file is too large",
        errno.EIO: "the device fails to read or write",
        errno.ESTALE: "the network file system no longer has it",
        errno.EMFILE: "the process has too many open files (raise its limit: ulimit -n, LimitNOFILE=)",
        errno.ENFILE: "the machine has too many open files",
        errno.ENOMEM: "there is not enough memory",
        errno.ENOBUFS: "there is not enough memory for sockets",
        errno.EPIPE: "the reader is gone",
        errno.ENXIO: "it is a pipe or socket that no process reads",
        errno.EADDRINUSE: "another process listens on it",
        errno.EADDRNOTAVAIL: "no network interface of this machine has the address",
        errno.EAFNOSUPPORT: "this machine does not support the kind of address",
        errno.ECONNREFUSED: "the connection is refused; does a server listen there?",
        errno.ECONNRESET: "the other side closed the connection",
        errno.ECONNABORTED: "the connection was closed",
        errno.EHOSTUNREACH: "no route leads to the host",
        errno.ENETUNREACH: "no route leads to the network",
        errno.ETIMEDOUT: "no answer in time",
        # Names: negative numbers, which no errno has (getaddrinfo(3)).
        socket.EAI_NONAME: "no address is known for the name",
        socket.EAI_NODATA: "no address is known for the name",
        socket.EAI_AGAIN: "the name server does not answer; try again later",
        socket.EAI_FAIL: "the name server refuses to answer",
        socket.EAI_FAMILY: "the name has no address of the kind",
    }
)
"""By error number: errno(3), and getaddrinfo(3) for names."""

_NUMBERED: Final = re.compile(r"\[Errno (-?[0-9]+)\]")


def in_words(error: OSError | UnicodeDecodeError) -> str:
    """Why a file, socket or name could not be used, as the end of a sentence: without number and path.

    An error that we raised ourselves, which has no number, keeps its text.
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    number = error.errno or _number_in(error)
    if number in {errno.EACCES, errno.EPERM}:
        return f"permission denied for {_user()}"
    if number in _WORDS:
        return _WORDS[number]
    if isinstance(error, TimeoutError):  # asyncio's has neither number nor text
        return "no answer in time"
    if number > 0:  # asyncio has texts of its own, with the address in them
        return f"the system says: {os.strerror(number)}"
    return error.strerror or str(error) or type(error).__name__


def _number_in(error: OSError) -> int:
    """The number that a library dropped; 0 where there is none."""
    if isinstance(error.__cause__, socket.gaierror):  # aiohttp raises it again with its text alone
        return error.__cause__.errno or 0
    found = _NUMBERED.search(str(error))  # asyncio joins the errors of several addresses
    return int(found.group(1)) if found else 0


def _user() -> str:
    uid = os.geteuid()
    try:
        return f"the user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # containers run as numbers that /etc/passwd lacks
        return f"the user with uid {uid}"
