"""Compares paths as the platform says that upstreams compare them (`policy.paths`)."""

from dataclasses import dataclass

from authz.policy.types.paths import PathMatching, PathsConfig
from authz.policy.types.pattern import Template
from edge.intent.claims import paths_overlap


@dataclass(frozen=True, slots=True)
class Spelling:
    """Which spellings of a path are the same path to upstreams."""

    matching: PathMatching

    @classmethod
    def of(cls, config: PathsConfig | None) -> "Spelling":
        """Return the spellings that the platform configures."""
        return cls(PathMatching.of(config))

    def compared(self, path: Template) -> tuple[Template, ...]:
        """Return the templates that cover every spelling of the paths of a template."""
        found = tuple(self.matching.templates((path,)))
        return tuple(dict.fromkeys(one.without_case() for one in found)) if self.matching.any_case else found

    def overlap(self, one: Template, other: Template) -> bool:
        """Return whether a path may be in both, in some spelling."""
        return any(paths_overlap(mine, its) for mine in self.compared(one) for its in self.compared(other))
