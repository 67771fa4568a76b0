"""Which paths are one path to a deny rule: `paths:` of a policy.

Express, koa-router and others serve `/admin` for `/ADMIN` and for `/admin/`. What an allow rule says is
never widened: a path in another spelling is then one that no rule allows, or that a broader rule does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from authz.path import Path
from authz.policy.words import Block

Segments = tuple[str, ...]


class PathsConfig(Block):
    """How upstreams compare paths: what `ignore` stands under, deny rules are held without."""

    case: Literal["exact", "ignore"] = "exact"
    """Letter case."""
    trailing_slash: Literal["exact", "ignore"] = "exact"
    """A slash at the end."""


@dataclass(frozen=True, slots=True)
class PathMatching:
    """How a rule that denies is held against paths."""

    any_case: bool = False
    any_slash: bool = False

    @classmethod
    def of(cls, config: PathsConfig | None) -> "PathMatching":
        """What the policy says."""
        if config is None:
            return EXACT
        found = cls(config.case == "ignore", config.trailing_slash == "ignore")
        return EXACT if found == EXACT else found

    def readings(self, path: Path) -> Sequence[Segments] | None:
        """The segments in every reading, `path.segments` first; None: there are too many."""
        found = path.readings()
        if found is None or not self.any_slash:
            return found
        return tuple(dict.fromkeys([*found, *map(_other_end, found)]))

    def spellings(self, path: Path) -> Sequence[Segments] | None:
        """The readings, and each in lower case where letter case does not count."""
        found = self.readings(path)
        if found is None or not self.any_case:
            return found
        return tuple(dict.fromkeys([*found, *map(without_case, found)]))


EXACT = PathMatching()


def without_case(segments: Segments) -> Segments:
    """The segments with every letter in one case."""
    return tuple(segment.casefold() for segment in segments)


def _other_end(segments: Segments) -> Segments:
    """The path with a slash at its end if it had none, and without one if it had."""
    if segments[-1]:
        return (*segments, "")
    return segments[:-1] or segments
