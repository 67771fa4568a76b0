"""Writes the files of a build into a folder, each at once, and only those that differ."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge.build.build import Built


def changed_files(built: Built, folder: Path) -> Iterator[str]:
    """Yield the name of each file that the folder lacks or has with other content. Raises OSError."""
    for name, content in built.files.items():
        try:
            same = (folder / name).read_bytes() == content
        except FileNotFoundError:
            same = False
        if not same:
            yield name


def write_files(built: Built, folder: Path) -> list[str]:
    """Write the files into the folder, which is created; return the names of those that changed.

    A reader sees a file as it was or as it is, never half of it. Raises OSError.
    """
    changed = list(changed_files(built, folder))
    for name in changed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, built.files[name])
    return changed


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # noqa: PTH101 - as a file that is created in any other way
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
