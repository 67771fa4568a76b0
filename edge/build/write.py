"""Writes the files of a build into a folder, each at once, and only those that differ."""

from collections.abc import Iterator
from pathlib import Path

from common.replace_file import replace_file
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
        replace_file(path, built.files[name])
    return changed
