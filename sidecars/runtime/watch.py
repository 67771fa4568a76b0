"""Whether files changed, found by looking: content, behind inode, size and times.

Looking works where inotify does not (NFS, overlay file systems), and it follows the way Kubernetes updates
a mounted ConfigMap: the files are links through a folder link that is swapped, so the path stays and the
inode changes.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

MAX_FILES = 10_000
"""Beyond this a folder is no folder of configuration; the files that sort first are watched."""

_CHUNK_BYTES = 1 << 20

Snapshot = Mapping[Path, bytes]
"""A digest of each file found."""


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
                continue  # gone between listing and reading, or not ours to read: the loader says so
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


def _digest(file: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()
