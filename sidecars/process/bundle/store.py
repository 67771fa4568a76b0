"""Keeps bundles on disk: the one in service survives a restart, also one after a power cut.

```
accepted.json     which bundle is in service, its place in the order, and its ETag
HASH.tar.gz       its archive
HASH/             its files
serving -> HASH   a link, swapped in one step
```

What a folder holds is read as carefully as what a server sends: the signature is verified again.
"""

import fcntl
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from common.replace_file import replace_file
from edge.bundle.archive import Bounds
from edge.bundle.bundle import Bundle, Trust, read_bundle
from edge.bundle.errors import BundleError, Fault

_RECORD: Final = "accepted.json"
_LINK: Final = "serving"
_LOCK: Final = ".lock"


class BundleInUseError(Exception):
    """Another process keeps its bundle in the folder."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The bundle in service."""

    digest: str
    revision: str
    order: int
    """Its place among the releases (`edge.bundle.bundle.order_of`)."""
    etag: str
    unix_seconds: float
    """When it was accepted."""
    release: int = 0
    """The sequence of the release file that names it; 0 without one."""
    expires_at: float | None = None
    """The end of its signature, or of the release file that names it, in Unix seconds; None: never."""
    content: str = ""
    """The digest of what was signed: its files, or the release. Empty in a record of an older version."""
    issued_at: float | None = None
    """When that was signed, in Unix seconds, if the signature says so."""


class BundleStore:
    """The bundles in one folder, which one process uses. Every method blocks on the disk, raising OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def serving(self) -> Path:
        """The folder that the paths of policies and limits lead to."""
        return self._folder / _LINK

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away from the folder. Raises BundleInUseError if one uses it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BundleInUseError from None
            yield

    def restore(self, trust: Trust, bounds: Bounds) -> Accepted | None:
        """Provide the files of the bundle that was accepted last; None without one.

        Its signature may have expired since. Raises BundleError for one that is missing or
        was changed.
        """
        accepted = self.accepted()
        if accepted is None:
            return None
        archive = self.archive(accepted.digest)
        if archive is None:
            raise BundleError(Fault.UNREADABLE, "the archive of the bundle that was accepted is missing")
        bundle = read_bundle(archive, bounds)
        if bundle.digest != accepted.digest:
            raise BundleError(Fault.UNREADABLE, "the bundle kept on disk is not the one that was accepted")
        trust.check(bundle, None)
        self.put(bundle, archive)
        self.switch(bundle.digest)
        return accepted

    def folder_of(self, digest: str) -> Path:
        """The files of a bundle that was put."""
        return self._folder / digest

    def put(self, bundle: Bundle, archive: bytes) -> None:
        """Write a bundle and its files, without putting it into service."""
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._archive(bundle.digest), archive, durable=True)
        folder = self._folder / bundle.digest
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in bundle.content.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        folder.mkdir(exist_ok=True)  # of a bundle without files

    def switch(self, digest: str | None) -> None:
        """Make `serving` lead to a bundle that was put; None: nowhere."""
        scratch = self._folder / f".{_LINK}"
        scratch.unlink(missing_ok=True)
        if digest is None:
            self.serving.unlink(missing_ok=True)
            return
        scratch.symlink_to(digest)
        scratch.replace(self.serving)

    def accept(self, accepted: Accepted, keep: Collection[str] = ()) -> None:
        """Record a bundle as the one in service, and remove the others but the archives of `keep`."""
        replace_file(self._folder / _RECORD, json.dumps(asdict(accepted)).encode(), durable=True)
        archives = {self._archive(digest).name for digest in {accepted.digest, *keep}}
        self._remove_but({_RECORD, _LINK, _LOCK, accepted.digest, *archives})

    def discard(self, digest: str) -> None:
        """Remove a bundle that was put and refused."""
        self._archive(digest).unlink(missing_ok=True)
        shutil.rmtree(self._folder / digest, ignore_errors=True)

    def accepted(self) -> Accepted | None:
        """The record of the bundle that was accepted last. Raises BundleError for a damaged one."""
        try:
            content: Mapping[str, Any] = json.loads((self._folder / _RECORD).read_bytes())
            return Accepted(**content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise BundleError(Fault.UNREADABLE, f"{_RECORD} is damaged") from None

    def archive(self, digest: str) -> bytes | None:
        """The archive of a bundle that is kept."""
        try:
            return self._archive(digest).read_bytes()
        except FileNotFoundError:
            return None

    def _archive(self, digest: str) -> Path:
        return self._folder / f"{digest}.tar.gz"

    def _remove_but(self, kept: Collection[str]) -> None:
        for path in list(self._folder.iterdir()):
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
