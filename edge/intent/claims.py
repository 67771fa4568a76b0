"""Sets of requests by host and path: whether one lies within another, and whether two overlap."""

from dataclasses import dataclass
from typing import Any

from authz.policy.types.pattern import EVERY_PATH, HostPattern, Template, parse_host, parse_template


@dataclass(frozen=True, slots=True)
class Claim:
    """The requests to the hosts of a pattern, at the paths of a template."""

    host: HostPattern
    path: Template = EVERY_PATH

    def __str__(self) -> str:
        return str(self.host) if self.path == EVERY_PATH else f"{self.host}{self.path}"

    def includes(self, other: "Claim") -> bool:
        """Return whether each request of `other` is one of these."""
        return host_includes(self.host, other.host) and path_includes(self.path, other.path)

    def overlaps(self, other: "Claim") -> bool:
        """Return whether a request may be in both."""
        return hosts_overlap(self.host, other.host) and paths_overlap(self.path, other.path)


def parse_claim(value: Any) -> Claim:
    """Parse `HOST` or `HOST/PATH`. Raises ValueError that says what would be right."""
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - pydantic turns it into a finding
            f"{value!r}: expected HOST or HOST/PATH, as in api.example.com/checkout/{{rest=**}}"
        )
    host, slash, path = value.partition("/")
    return Claim(parse_host(host), parse_template(f"/{path}") if slash else EVERY_PATH)


def host_includes(wide: HostPattern, narrow: HostPattern) -> bool:
    """Return whether each host of `narrow` is one of `wide`."""
    if not wide.wildcard:
        return wide == narrow
    below = narrow.wildcard and wide.name == narrow.name
    return below or not wide.name or narrow.name.endswith(f".{wide.name}")


def hosts_overlap(one: HostPattern, other: HostPattern) -> bool:
    """Return whether a host may be in both: host patterns are nested or have nothing in common."""
    return host_includes(one, other) or host_includes(other, one)


def path_includes(wide: Template, narrow: Template) -> bool:
    """Return whether each path of `narrow` is one of `wide`."""
    if not wide.rest and (narrow.rest or len(wide.segments) != len(narrow.segments)):
        return False
    if len(narrow.segments) < len(wide.segments):
        return False
    # A variable covers any segment but the empty one, with which a template may end (`/orders/`).
    return all(
        (segment != "" if wanted is None else wanted == segment)
        for wanted, segment in zip(wide.segments, narrow.segments, strict=False)
    )


def paths_overlap(one: Template, other: Template) -> bool:
    """Return whether a path may be in both."""
    if not one.rest and len(other.segments) > len(one.segments):
        return False
    if not other.rest and len(one.segments) > len(other.segments):
        return False
    return all(
        mine == its or (mine is None and its != "") or (its is None and mine != "")
        for mine, its in zip(one.segments, other.segments, strict=False)
    )


def specificity(template: Template) -> tuple[int, ...]:
    """Return a key that sorts templates: of two that cover a path, the more specific one comes first.

    The first segment in which they differ decides: plain text, then a variable, then a rest.
    """
    kinds = [1 if segment is None else 0 for segment in template.segments]
    return (*kinds, 2) if template.rest else (*kinds, 0)
