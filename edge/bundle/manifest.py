"""The `.manifest` of a bundle: which revision it is, and what it owns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edge.bundle.errors import BundleError, Fault
from edge.bundle.names import MANIFEST

MAX_REVISION_CHARACTERS: Final = 128
"""The longest revision: it is in logs, in metrics and on pages."""

SEQUENCE: Final = "sequence"
"""The member of `metadata` by which bundles are ordered."""

MAX_SEQUENCE: Final = 2**53 - 1
"""The largest whole number that every JSON library keeps (RFC 8259 section 6)."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `.manifest` that is used; OPA's other members may be there."""

    revision: str
    roots: tuple[str, ...] = ("",)
    """Prefixes of the paths that the bundle owns; the empty one is all."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sequence(self) -> int | None:
        """The place of the bundle in the order of releases, if the manifest states it."""
        sequence: int | None = self.metadata.get(SEQUENCE)
        return sequence

    def encode(self) -> bytes:
        """Return the file, the same bytes for the same content."""
        content = {"metadata": self.metadata, "revision": self.revision, "roots": list(self.roots)}
        return json.dumps(content, sort_keys=True, ensure_ascii=False, indent=2).encode() + b"\n"


def read_manifest(files: Mapping[str, bytes]) -> Manifest:
    """Return the manifest among `files`. Raises BundleError if it is missing or unusable."""
    if MANIFEST not in files:
        raise _unusable("is missing")
    try:
        content = json.loads(files[MANIFEST])
    except (ValueError, RecursionError):
        raise _unusable("is not JSON") from None
    if not isinstance(content, dict):
        raise _unusable("is not a JSON object")
    revision = content.get("revision")
    if not isinstance(revision, str) or not revision:
        raise _unusable("has no revision")
    if len(revision) > MAX_REVISION_CHARACTERS or not revision.isprintable():
        raise _unusable(
            f"has a revision that is not one line of at most {MAX_REVISION_CHARACTERS} characters"
        )
    metadata = {} if content.get("metadata") is None else content["metadata"]
    if not isinstance(metadata, dict):
        raise _unusable("has a metadata that is not an object")
    sequence = metadata.get(SEQUENCE, 0)
    if type(sequence) is not int or not 0 <= sequence <= MAX_SEQUENCE:
        raise _unusable(f"has a metadata.sequence that is not a whole number from 0 to {MAX_SEQUENCE}")
    return Manifest(revision, _roots(content.get("roots")), metadata)


def _roots(written: Any) -> tuple[str, ...]:
    if written is None:
        return ("",)
    if not isinstance(written, list) or not all(isinstance(root, str) for root in written):
        raise _unusable("has roots that are not a list of texts")
    roots = tuple(root.strip("/") for root in written)
    check_roots(roots)
    return roots


def check_roots(roots: Sequence[str]) -> None:
    """Raise BundleError if one root covers another."""
    for position, root in enumerate(roots):
        for other in (*roots[:position], *roots[position + 1 :]):
            if covers(root, other):
                raise _unusable(f"has overlapping roots: {root!r} and {other!r}")


def covers(root: str, name: str) -> bool:
    """Return whether the path `name` is `root` or below it."""
    return not root or name == root or name.startswith(f"{root}/")


def _unusable(what: str) -> BundleError:
    return BundleError(Fault.UNREADABLE, f"{MANIFEST} {what}")
