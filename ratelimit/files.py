"""Finds the limit files in a folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

from common.configfile import ConfigError, Problem

SUFFIXES: Final = (".yaml", ".yml")

MAX_ENTRIES: Final = 10_000
"""The most entries of a folder: with more, a wrong path (`/`) was named."""

SHOWN_NAMES: Final = 10
"""The most names that a warning lists: a folder that was named by mistake may hold thousands."""


class FolderFiles(StrEnum):
    """Which files of a folder are limit files."""

    YAML = "yaml"
    """The folder's own *.yaml and *.yml."""
    VISIBLE = "visible"
    """Every file of the folder and its subfolders (RUNTIME_IGNOREDOTFILES=true)."""
    ALL = "all"
    """Hidden files and folders, too (envoyproxy/ratelimit's default)."""


@dataclass(frozen=True, slots=True)
class Found:
    """The limit files of a folder, and what else it holds."""

    files: tuple[Path, ...]
    skipped: Problem | None
    """A warning that names what is not loaded; None where nothing is left out."""


def limit_files(path: Path, which: FolderFiles = FolderFiles.YAML) -> Found:
    """The file at `path`, or the limit files of the folder at `path`, sorted by name.

    Raises OSError, and ConfigError for a folder without any.
    """
    if not path.is_dir():
        return Found((path,), None)
    files: list[Path] = []
    others: list[Path] = []
    for entry in islice(_entries(path, which), MAX_ENTRIES + 1):
        (files if _is_limit_file(entry, which) else others).append(entry)
    if len(files) + len(others) > MAX_ENTRIES:
        raise ConfigError.of(path, f"the folder holds more than {MAX_ENTRIES} entries: is it the right one?")
    files.sort()
    # A mounted ConfigMap holds its real files in folders such as ..data, and links to them.
    names = sorted(_shown(path, entry) for entry in others if not entry.name.startswith(".."))
    if not files:
        wanted = "*.yaml or *.yml" if which is FolderFiles.YAML else "a file that is not hidden"
        wanted = "a file" if which is FolderFiles.ALL else wanted
        found = f"; found {_listed(names)}" if names else ""
        raise ConfigError.of(path, f"the folder holds no limit file: {wanted}{found}")
    if not names:
        return Found(tuple(files), None)
    return Found(tuple(files), Problem(str(path), 0, "", f"skipped {_listed(names)}; {_REASONS[which]}"))


def hidden_files(path: Path) -> tuple[Path, ...]:
    """The files in the folder at `path` that are hidden, or in a hidden folder; none if it cannot be read."""
    try:
        files = limit_files(path, FolderFiles.ALL).files
    except (ConfigError, OSError):
        return ()
    return tuple(file for file in files if any(part.startswith(".") for part in file.relative_to(path).parts))


_REASONS: Final = {
    FolderFiles.YAML: "only *.yaml and *.yml are loaded: rename it, or set folder_files: visible",
    FolderFiles.VISIBLE: "hidden files, links to folders and what is not a file are not loaded",
    FolderFiles.ALL: "links to folders and what is not a file are not loaded",
}


def _entries(folder: Path, which: FolderFiles) -> Iterator[Path]:
    """What `folder` holds; below it, too, where subfolders are read. Links to folders are not followed."""
    waiting = [folder]
    while waiting:
        for entry in waiting.pop().iterdir():
            hidden = entry.name.startswith(".") and which is not FolderFiles.ALL
            goes_on = which is not FolderFiles.YAML and not hidden
            if goes_on and entry.is_dir() and not entry.is_symlink():
                waiting.append(entry)
            else:
                yield entry


def _is_limit_file(entry: Path, which: FolderFiles) -> bool:
    if which is FolderFiles.ALL:
        return entry.is_file()
    if entry.name.startswith("."):
        return False
    return (which is FolderFiles.VISIBLE or entry.suffix in SUFFIXES) and entry.is_file()


def _shown(folder: Path, entry: Path) -> str:
    return str(entry.relative_to(folder)) + (os.sep if entry.is_dir() else "")


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
