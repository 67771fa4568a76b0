"""Replaces a file in one step: a reader sees the old content or the new, never a part."""

import os
from contextlib import suppress
from pathlib import Path


def replace_file(file: Path, content: bytes, *, durable: bool = False) -> None:
    """Write `content` to `file`; with `durable`, a power cut leaves the old content or the new, too.

    Raises OSError, which names `file`.
    """
    scratch = file.with_name(f".{file.name}.{os.getpid()}")  # several processes may write the same file
    try:
        with scratch.open("wb") as opened:
            opened.write(content)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        scratch.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        with suppress(OSError):  # usually it has become the file
            scratch.unlink()
    if durable:
        _sync_folder(file.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
