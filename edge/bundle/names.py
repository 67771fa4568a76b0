"""The names of the files in a bundle: relative paths that stay inside the folder they are written to."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from edge.bundle.errors import BundleError, Fault

MANIFEST: Final = ".manifest"
SIGNATURES: Final = ".signatures.json"

MAX_NAME_BYTES: Final = 1024
"""The longest name of a file with its folders."""


def checked_name(written: str) -> str:
    """Return the name without a leading `/` or `./`, which OPA and tar write.

    Raises BundleError for a name that leads outside, or that file systems could read differently.
    """
    name = written.removeprefix("./").lstrip("/")
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise BundleError(Fault.UNREADABLE, f"a file name has more than {MAX_NAME_BYTES} bytes")
    if not name.isprintable() or "\\" in name:
        raise BundleError(Fault.UNREADABLE, f"{written!r}: the name holds a control character or a backslash")
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise BundleError(Fault.UNREADABLE, f"{written!r}: the name does not stay inside the bundle")
    return name


def check_folders(names: Iterable[str]) -> None:
    """Raise BundleError if one name is both a file and a folder."""
    files = set(names)
    for name in files:
        for folder in PurePosixPath(name).parents:
            if str(folder) in files:
                raise BundleError(Fault.UNREADABLE, f"{str(folder)!r} is both a file and a folder")
