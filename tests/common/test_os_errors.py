"""Operating system errors in our words: no number, no repeated path, and the user without permission."""

import os
import re
import socket
from errno import EADDRINUSE, EBADMSG, EINTR, ENOSPC, EPERM, errorcode
from pathlib import Path

import pytest

from common.os_errors import in_words


def caught(path: Path) -> str:
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return in_words(error)
    return "it can be read"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    (tmp_path / "circle").symlink_to("circle")
    assert caught(tmp_path / "none") == "no such file or folder"
    assert caught(tmp_path) == "it is a folder, and a file is expected"
    assert caught(tmp_path / "file") == "it is not UTF-8 text"
    assert caught(tmp_path / "file" / "below") == "a part of the path is not a folder"
    assert caught(tmp_path / "circle") == "its symbolic links lead in a circle"
    assert caught(tmp_path / ("x" * 300)) == "the name is too long"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(EPERM, "no")])
def test_a_permission_names_the_user(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert in_words(error) == "permission denied for the user root (uid 0)"
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999_999)
    assert in_words(error) == "permission denied for the user with uid 3999999999"


def test_the_number_counts_and_not_the_text_that_a_library_gives_it() -> None:
    assert in_words(OSError(EADDRINUSE, "error while attempting to bind")) == "another process listens on it"
    assert in_words(OSError(ENOSPC, "[Errno 28]", "/a/path")) == "the disk is full"


def test_a_name_without_address() -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert in_words(unknown) == "no address is known for the name"
    again = OSError(None, "Name or service not known")
    again.__cause__ = unknown
    assert in_words(again) == "no address is known for the name"


def test_the_first_of_several_addresses_explains_the_error() -> None:
    error = OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 2] No such file")
    assert in_words(error) == "the connection is refused; does a server listen there?"


def test_a_wait_that_ended_is_reported() -> None:
    assert in_words(TimeoutError()) == "no answer in time"


def test_our_own_errors_keep_their_text() -> None:
    assert in_words(OSError("the path exists and is not a socket")) == "the path exists and is not a socket"


@pytest.mark.parametrize("number", sorted(errorcode))
def test_every_error_has_words_without_number(number: int) -> None:
    text = in_words(OSError(number, os.strerror(number)))
    assert text
    assert not re.search(r"Errno|\[", text)


def test_a_rare_error_is_reported_in_the_words_of_the_system() -> None:
    assert in_words(OSError(EBADMSG, "x")) == f"the system says: {os.strerror(EBADMSG)}"
    assert in_words(InterruptedError(EINTR, "x")) == f"the system says: {os.strerror(EINTR)}"
