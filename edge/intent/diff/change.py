"""One change between two estates."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a change does, the most worth a look first."""

    REDACTION_WEAKER = "redaction weaker"
    """The log shows more of a value."""
    ACCESS_WIDER = "access wider"
    """Someone may call what they could not, or it cannot be shown that no one may."""
    LIMIT_HIGHER = "limit higher"
    ACCESS_NARROWER = "access narrower"
    LIMIT_LOWER = "limit lower"
    OTHER = "other"


WIDENING: Final = frozenset({Kind.REDACTION_WEAKER, Kind.ACCESS_WIDER})
"""The kinds after which callers or readers of the log see more than before."""

_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Change:
    """A change, and all that it happens to."""

    kind: Kind
    subjects: tuple[str, ...]
    """Services, routes (SERVICE.ID) or `platform`."""
    text: str

    @property
    def widens(self) -> bool:
        """Whether callers or readers of the log may see more than before."""
        return self.kind in WIDENING


Found = tuple[Kind, str, str]
"""The kind of a change, what it happens to, and the text."""


def grouped(found: Iterable[Found]) -> tuple[Change, ...]:
    """Return the changes in a stable order; those with the same words become one."""
    groups: dict[tuple[Kind, str], dict[str, None]] = {}
    for kind, subject, text in found:
        groups.setdefault((kind, text), {})[subject] = None
    changes = (Change(kind, tuple(sorted(subjects)), text) for (kind, text), subjects in groups.items())
    return tuple(sorted(changes, key=lambda one: (_ORDER[one.kind], one.subjects, one.text)))
