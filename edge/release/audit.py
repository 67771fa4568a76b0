"""The audit log: who released what. JSON lines, of which each holds the hash of the one before.

A changed, removed or inserted line breaks the chain. A log that is cut short at its end,
or written again as a whole, still differs from the hash of the last entry in the signed release file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

FIRST: Final = "0" * 64
"""What the first entry has as the hash of the one before."""


class AuditError(ValueError):
    """A log that was changed; the message says where."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of a release."""

    at: str
    """UTC, ISO 8601."""
    by: str
    action: str
    """`start`, `promote`, `hold` or `rollback`."""
    sequence: int
    revision: str
    """The revision that `current` names after the step."""
    active: int
    """The waves that serve it after the step."""
    waves: int
    why: str
    before: str
    """The hash of the entry before."""

    @property
    def hash(self) -> str:
        """The SHA-256 of the entry as JSON with sorted keys."""
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()

    def line(self) -> str:
        """Return the entry as a line of the log."""
        return json.dumps({**asdict(self), "hash": self.hash}, ensure_ascii=False, sort_keys=True)


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Yield each entry while the chain holds. Raises AuditError with the number of the first bad line."""
    before = FIRST
    for number, line in enumerate(lines, 1):
        try:
            written: dict[str, Any] = json.loads(line)
            stated = written.pop("hash")
            entry = Entry(**written)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise AuditError(f"line {number} is not an entry") from None
        if entry.before != before:
            raise AuditError(f"line {number} does not follow the line before it")
        if entry.hash != stated:
            raise AuditError(f"line {number} was changed")
        before = stated
        yield entry


def unreleased(log: Sequence[Entry], head: str) -> int:
    """Return how many entries follow the one that the signed release file names.

    Their release file was never written. `head`: its entry, empty without a release file. Raises AuditError
    if the log does not hold it.
    """
    hashes = ["", *(entry.hash for entry in log)]
    if head not in hashes:
        text = "it was cut short or replaced, or the release file is of another log"
        raise AuditError(f"the log does not hold the entry that the release file names: {text}")
    return len(hashes) - 1 - hashes.index(head)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
