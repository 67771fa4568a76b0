"""Finds changed files by polling: by content, read only when inode, size or times changed.

Looking works where inotify does not (NFS, overlay file systems), and it follows the way Kubernetes updates
a mounted ConfigMap: the files are links through a folder link that is swapped, so the path stays and the
inode changes.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

MAX_FILES: Final = 10_000
"""A folder with more files is not a configuration folder; the files that sort first are watched."""

_CHUNK_BYTES: Final = 1 << 20

MAX_LINKS: Final = 40
"""The most symbolic links that are followed, as in the kernel (path_resolution(7))."""

CLOCK_SECONDS: Final = 0.1
"""The times of files lag behind the clock by a tick of the kernel, 10 ms at most; taken amply, as a file that
is read once too often does no harm."""

Snapshot = Mapping[Path, bytes]
"""A digest of each file found."""


@dataclass(frozen=True, slots=True)
class FileBaseline:
    """The files before a sidecar read them: what it serves is at least as new."""

    files: Snapshot
    """The files that its settings name, and those in folders. Files that these name are not known yet."""
    unix_seconds: float

    @classmethod
    def read(cls, paths: Iterable[Path], wall_clock: Callable[[], float]) -> "FileBaseline":
        """The present state of the files. Blocks on the disk."""
        began = wall_clock()
        return cls(Watcher().snapshot(paths), began)

    def as_read(self, now: Snapshot) -> Snapshot:
        """The files of `now` that were certainly read: those that changed since are left out.

        Of a file that only another file names, the times tell. Blocks on the disk.
        """
        oldest = self.unix_seconds - CLOCK_SECONDS
        found = {path: digest for path, digest in now.items() if path not in self.files}
        return {path: digest for path, digest in found.items() if _put_there(path) < oldest} | dict(
            self.files
        )


class Watcher:
    """Takes snapshots. Reads a file only when its inode, size or times changed since the last one."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], bytes]] = {}

    def snapshot(self, paths: Iterable[Path]) -> Snapshot:
        """The digest of every file among and below `paths`. Blocks on the disk: call it in a thread."""
        known = {}
        for file in islice(_files(paths), MAX_FILES):
            try:
                status = file.stat()
                key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                before = self._known.get(file)
                known[file] = before if before is not None and before[0] == key else (key, _digest(file))
            except OSError:
                continue  # gone since it was listed, or unreadable: the loader reports it
        self._known = known
        return {file: digest for file, (_, digest) in known.items()}


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path, followlinks=True):
                # Hidden entries are the machinery of ConfigMaps (..data) and editors' swap files.
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        else:
            yield path


def _put_there(path: Path) -> float:
    """When `path` last began to resolve to its present target, in Unix seconds; 0 without a target."""
    newest = 0.0
    try:
        for _ in range(MAX_LINKS):
            links = [part for part in (path, *path.parents) if part.is_symlink()]
            newest = max(newest, *(part.lstat().st_ctime for part in (path, *links)))
            if not links:
                break
            first = links[-1]
            path = first.parent / first.readlink() / path.relative_to(first)
    except OSError:
        return 0.0
    return newest


def _digest(file: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()
