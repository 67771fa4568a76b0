"""Whether the files of this application and of what it depends on are those that were installed.

Distributions that share a namespace (`google`, gRPC stubs) or the name of a package silently replace each
other's files, and remove them when they are uninstalled.
"""

import base64
import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import (
    Distribution,
    FileHash,
    PackageNotFoundError,
    PackagePath,
    distribution,
    distributions,
)
from pathlib import Path
from typing import Final

from sidecars.doctor.finding import Finding, fail, ok, warn

OURS: Final = "edge-sidecars"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_packages(root: str = OURS) -> Iterator[Finding]:
    """Yield a finding for each file of `root` and its dependencies that another content or owner has."""
    ours = dict(_with_dependencies(root))
    owners = _owners(distributions())
    found = [finding for name, one in ours.items() for finding in _of_distribution(name, one, owners)]
    yield from found
    if not found:
        yield ok("packages", f"the files of {len(ours)} distributions are as installed")


def _with_dependencies(root: str) -> Iterator[tuple[str, Distribution]]:
    """Yield the distribution and everything installed that it needs, each once, by its normalised name."""
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        name = _normalised(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue  # an extra, or for another system
        yield name, one
        for requirement in one.requires or ():
            found = _NAME.match(requirement)
            if found is not None and "extra ==" not in requirement:
                waiting.append(found.group())


def _owners(installed: Iterable[Distribution]) -> Mapping[Path, list[str]]:
    """Return the distributions that say they installed each file."""
    owners: dict[Path, list[str]] = {}
    for one in installed:
        name = _normalised(one.metadata["Name"])
        for file in _files_of(one):
            owners.setdefault(Path(str(one.locate_file(file))), []).append(name)
    return owners


def _of_distribution(name: str, one: Distribution, owners: Mapping[Path, list[str]]) -> Iterator[Finding]:
    changed: list[Path] = []
    removed: list[Path] = []
    shared: list[Path] = []
    for file in _files_of(one):
        path = Path(str(one.locate_file(file)))
        if file.hash is None or not _is_imported(file):
            continue
        if not path.exists():
            removed.append(path)
        elif _digest(path, file.hash.mode) != file.hash.value:
            changed.append(path)
        elif len({*owners.get(path, ())}) > 1:
            shared.append(path)
    fix = f"install into an environment of its own (pipx, uv tool), or: pip install --force-reinstall {name}"
    for paths, what in ((changed, "was changed"), (removed, "is missing")):
        if paths:
            yield fail(f"package {name}", f"{_listed(paths)} {what}{_others(paths, name, owners)}", fix)
    if shared:
        seen = f"{_listed(shared)} belongs to two distributions{_others(shared, name, owners)}"
        yield warn(f"package {name}", seen, fix)


def _files_of(one: Distribution) -> Iterator[PackagePath]:
    """Yield each file in the RECORD of a distribution; `Distribution.files` omits missing ones since 3.12."""
    for row in csv.reader((one.read_text("RECORD") or "").splitlines()):
        file = PackagePath(row[0])
        file.hash = FileHash(row[1]) if row[1:] and row[1] else None
        yield file


def _is_imported(file: PackagePath) -> bool:
    """Whether the file is part of a package. Commands and metadata may change when an environment moves."""
    return ".." not in file.parts and not file.parts[0].endswith((".dist-info", ".pth"))


def _others(paths: list[Path], name: str, owners: Mapping[Path, list[str]]) -> str:
    others = sorted({owner for path in paths for owner in owners.get(path, ())} - {name})
    return f"; {', '.join(others)} also installed it" if others else ""


def _listed(paths: list[Path]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
