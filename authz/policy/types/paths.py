"""Which spellings of a path a deny rule treats as the same path (`paths:` of a policy).

Express, koa-router and others serve `/admin` for `/ADMIN` and for `/admin/`. Allow rules are never widened: a
path in another spelling is allowed only if a broader rule allows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from authz.policy.types.names import PolicyBlock
from authz.policy.types.pattern import Template
from authz.request.path import Path

Segments = tuple[str, ...]


class PathsConfig(PolicyBlock):
    """How upstreams compare paths. Deny rules disregard differences that are set to `ignore`."""

    case: Literal["exact", "ignore"] = "exact"
    """Whether letter case matters."""
    trailing_slash: Literal["exact", "ignore"] = "exact"
    """Whether a slash at the end matters."""


@dataclass(frozen=True, slots=True)
class PathMatching:
    """How deny rules compare paths."""

    any_case: bool = False
    any_slash: bool = False

    @classmethod
    def of(cls, config: PathsConfig | None) -> "PathMatching":
        """Return the matching that the policy configures."""
        if config is None:
            return EXACT
        found = cls(config.case == "ignore", config.trailing_slash == "ignore")
        return EXACT if found == EXACT else found

    def templates(self, paths: Sequence[Template]) -> Sequence[Template]:
        """Return the templates that a rule with these paths covers."""
        if not self.any_slash:
            return paths
        return [*paths, *(other for path in paths for other in path.other_ends())]

    def indexed(self, paths: Sequence[Template]) -> Sequence[Template]:
        """Return the templates for the index, including lower-case forms if letter case does not matter."""
        found = self.templates(paths)
        if not self.any_case:
            return found
        return list(dict.fromkeys([*found, *(path.without_case() for path in found)]))

    def bind(self, templates: Sequence[Template], segments: Segments) -> Mapping[str, str] | None:
        """Return the variables of the first of `templates` that covers a reading; None if none does."""
        for template in templates:
            found = template.bind(segments, any_case=self.any_case)
            if found is not None:
                return found
        return None

    def readings(self, path: Path) -> Sequence[Segments] | None:
        """Return the segments of every reading, `path.segments` first; None if there are too many."""
        found = path.readings()
        if found is None or not self.any_slash:
            return found
        return tuple(dict.fromkeys([*found, *map(_without_slash, found)]))

    def spellings(self, path: Path) -> Sequence[Segments] | None:
        """Return the readings, and each in lower case if letter case does not matter."""
        found = self.readings(path)
        if found is None or not self.any_case:
            return found
        return tuple(dict.fromkeys([*found, *map(without_case, found)]))


EXACT: Final = PathMatching()


def without_case(segments: Segments) -> Segments:
    """Return the segments in folded case."""
    return tuple(segment.casefold() for segment in segments)


def _without_slash(segments: Segments) -> Segments:
    return segments if segments[-1] else segments[:-1] or segments
