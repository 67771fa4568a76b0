"""Counts descriptors that no rule matched, and requests for domains that no file has, by their shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric

from protos.lenient import shown
from ratelimit.explain import MAX_KEYS_SHOWN, explain_match
from ratelimit.request import Descriptor
from ratelimit.rules import CompiledLimits

MAX_SHAPES: Final = 100
"""Envoys name domains and keys, clients cannot; this bounds a misconfigured Envoy, and callers of `/json`."""

OTHER: Final = "(other)"
"""The key, or domain, of what goes beyond a bound: in parentheses, because few rules have such a name."""

NO_KEYS: Final = "(none)"
"""The keys of a descriptor without entries. Envoy sends one where the only action was skipped."""

LONGEST_LABEL: Final = 128
"""The most characters of a domain, and of keys, in a metric and in a log line."""

SHORTEST_QUIET_SECONDS: Final = 60.0
LONGEST_QUIET_SECONDS: Final = 3600.0
"""Between two log lines about one shape; it doubles, since some descriptors are never meant to match."""


@dataclass(slots=True, eq=False)
class UnmatchedShape:
    """The descriptors of one domain with the same keys, or without keys an unknown domain."""

    domain: str
    keys: str | None
    """Joined by commas; None for a domain that no file has."""
    count: int = 0
    """Descriptors, or requests for an unknown domain."""
    quiet_until: float = 0.0
    quiet_seconds: float = SHORTEST_QUIET_SECONDS


class Unmatched:
    """The shapes that were seen: `max_shapes` at most, the others together as `(other)`."""

    def __init__(self, max_shapes: int = MAX_SHAPES) -> None:
        self._max_shapes = max_shapes
        self._shapes: dict[tuple[str, ...], UnmatchedShape] = {}

    def domain(self, domain: str) -> UnmatchedShape:
        """The shape of requests for an unknown domain."""
        return self._shape((domain,), None)

    def descriptor(self, domain: str, descriptor: Descriptor) -> UnmatchedShape:
        """The shape of a descriptor without a rule."""
        keys = tuple([key for key, _ in descriptor.entries])
        return self._shape((domain, "", *keys), ",".join(keys) if keys else NO_KEYS)

    def _shape(self, name: tuple[str, ...], keys: str | None) -> UnmatchedShape:
        known = self._shapes.get(name)
        if known is not None:
            return known
        domain = name[0]
        if len(self._shapes) >= self._max_shapes:
            name, domain = (OTHER, "" if keys is None else OTHER), OTHER
            keys = None if keys is None else OTHER
        made = UnmatchedShape(_label(domain), None if keys is None else _label(keys))
        return self._shapes.setdefault(name, made)

    def shapes(self) -> Sequence[UnmatchedShape]:
        """Every shape, the most frequent first."""
        return sorted(self._shapes.values(), key=lambda shape: -shape.count)

    def speak_again(self) -> None:
        """Let the next request of each shape be logged: the limits have changed."""
        for shape in self._shapes.values():
            shape.quiet_until, shape.quiet_seconds = 0.0, SHORTEST_QUIET_SECONDS

    def collect(self) -> Iterator[Metric]:
        """The metric of descriptors without a rule."""
        text = "Descriptors that no rule matches, by domain and keys."
        metric = Metric("ratelimit_service_rate_limit_descriptor_not_found", text, "unknown")
        counts: dict[tuple[str, str], int] = {}
        for shape in self._shapes.values():
            if shape.keys is not None:
                labels = shape.domain, shape.keys
                counts[labels] = counts.get(labels, 0) + shape.count
        for (domain, keys), count in counts.items():
            metric.add_sample(metric.name, {"domain": domain, "keys": keys}, count)
        yield metric


def why(limits: CompiledLimits, domain: str, descriptor: Descriptor | None) -> str:
    """Return why `limits` have nothing for a descriptor of `domain`; for the domain itself without one."""
    root = limits.domains.get(domain)
    if root is None or descriptor is None:
        known = ", ".join(sorted(limits.domains)[:MAX_KEYS_SHOWN])
        return f"no limits file has this domain; there are {known}"
    entries = [(key, value[:LONGEST_LABEL]) for key, value in descriptor.entries]
    return shown(explain_match(root, entries, limits.options.secrets).missing)


def _label(text: str) -> str:
    return shown(text[:LONGEST_LABEL])
