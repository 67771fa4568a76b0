"""Folders for private sockets. They go with their process or, where it was killed, at a later start."""

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "sidecars-"
LOCK: Final = "lock"
"""A file in each folder, which its process holds locked. The kernel unlocks it when that ends (flock(2))."""


class SocketFolder:
    """A folder in `parent` that only this user may enter, from now to `remove`.

    Removes those that processes of this user left behind. `parent` is by default that of temporary files.
    Raises OSError if it cannot be created.
    """

    def __init__(self, parent: str | None = None, kind: str = "") -> None:
        parent = parent or tempfile.gettempdir()
        remove_left_behind(Path(parent))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX + kind, dir=parent))
        new = self.path / "lock.new"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)  # under its name it was never unlocked

    def remove(self) -> None:
        """Remove the folder with the sockets in it."""
        remove_folder(self.path)
        os.close(self._lock)


def remove_left_behind(parent: Path) -> None:
    """Remove the folders in `parent` that are our user's and whose processes have ended."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(folder: Path) -> None:
    # BlockingIOError: its process runs. FileNotFoundError: another program made it, or it is about to begin.
    with suppress(OSError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            return
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
        finally:
            os.close(lock)


def remove_folder(folder: Path) -> None:
    """Remove a folder and the files and sockets in it; leave what is not empty after that."""
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                file.unlink()
        folder.rmdir()
