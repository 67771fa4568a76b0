"""A simulated fleet: edges that pull a release file, and the server that they ask.

Time, the network and the traffic are simulated. The code of the product decides how long an edge waits
(`sidecars.process.bundle.pause`), and what it serves (`edge.release.choose`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge.release.choose import target_of
from edge.release.gate import Report
from edge.release.model import Release
from sidecars.process.bundle.pause import pause_seconds
from sidecars.settings.bundle import BundleSettings, StatusSettings

URL: Final = "https://config.example.com/release.json"
SETTINGS: Final = BundleSettings(
    url=URL,
    staged=True,
    keys={"release": Path("/release.pem")},
    folder=Path("/bundles"),
    status=StatusSettings(url="https://config.example.com/status"),
)
"""The intervals are the defaults."""

REPORT_SECONDS: Final[float] = StatusSettings.model_fields["interval_seconds"].default
ROUND_TRIP_SECONDS: Final = 0.05
REGIONS: Final = ("eu", "us", "ap")

CALLS_A_SECOND: Final = 20.0
CALL_SECONDS: Final = 0.001
DENIED_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a revision does to the traffic of an edge."""

    error_share: float = 0.0
    changed_share: float = 0.0
    """The share of decisions that differ from the revision before, which are denials instead of allows."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the server refuses connections, in seconds since the start."""

    began: float
    ended: float


NONE: Final = Outage(0.0, 0.0)


@dataclass(slots=True)
class Node:
    """One edge."""

    name: str
    metadata: Mapping[str, str]
    revision: str
    next_pull: float
    since: float = 0.0
    """When its revision began to serve."""
    sequence: int = 0
    """The release file that it read last, which is what its ETag names."""
    failures: int = 0
    candidate: str = ""
    candidate_since: float = 0.0
    archives: frozenset[str] = frozenset()
    """The digests of the bundles on its disk."""


@dataclass(slots=True)
class Server:
    """What the server of the release file counts, by second."""

    requests: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    """Attempts to connect during an outage."""
    not_modified: int = 0
    bundles: int = 0
    """Bundles that were fetched."""


@dataclass(frozen=True, slots=True)
class Change:
    """An edge that began to serve another revision."""

    at: float
    node: str
    revision: str


class Fleet:
    """The edges. Each pulls by itself. `random` gives numbers in [0, 1)."""

    def __init__(
        self, size: int, release: Release, random: Callable[[], float], outages: Sequence[Outage] = ()
    ) -> None:
        self.server = Server()
        self.changes: list[Change] = []
        self._random = random
        self._outages = outages
        self._now = 0.0
        serving = release.current
        self.nodes = [
            Node(
                f"edge-{number}",
                {"region": REGIONS[number % len(REGIONS)]},
                serving.revision,
                random() * SETTINGS.interval_seconds,
                sequence=release.sequence,
                archives=frozenset({serving.digest}),
            )
            for number in range(size)
        ]

    def advance(self, until: float, release: Release) -> None:
        """Let all edges pull `release` until that second. At most one outage is in that time."""
        server, random = self.server, self._random
        outage = next((one for one in self._outages if one.began < until and self._now < one.ended), NONE)
        self._now = until
        for node in self.nodes:
            at = node.next_pull
            while at < until:
                if outage.began <= at < outage.ended:
                    node.failures += 1
                    server.refused[int(at)] += 1
                else:
                    node.failures = 0
                    server.requests[int(at)] += 1
                    if node.sequence == release.sequence:
                        server.not_modified += 1
                    else:
                        self._take(node, at, release)
                at += ROUND_TRIP_SECONDS + pause_seconds(SETTINGS, random(), failures=node.failures)
            node.next_pull = at

    def _take(self, node: Node, at: float, release: Release) -> None:
        """Do what an edge does with a new release file."""
        node.sequence = release.sequence
        target = target_of(release, node.name, node.metadata)
        candidate = release.current if target is not release.current else None
        needed = {one.digest for one in (target, candidate) if one is not None}
        missing = len(needed - node.archives)
        self.server.bundles += missing
        self.server.requests[int(at + ROUND_TRIP_SECONDS)] += missing
        served = at + ROUND_TRIP_SECONDS * (1 + missing)
        kept = {one.digest for one in (release.current, release.previous) if one is not None}
        node.archives = (node.archives | needed) & kept
        if node.revision != target.revision:
            node.revision, node.since = target.revision, served
            self.changes.append(Change(served, node.name, target.revision))
        judged = "" if candidate is None else candidate.revision
        if node.candidate != judged:
            node.candidate, node.candidate_since = judged, served

    def reports(self, now: float, behaviours: Mapping[str, Behaviour]) -> Sequence[Report]:
        """Return the last report of each edge: it reports each change, and regularly after it."""
        return list(self._reports(now, behaviours))

    def _reports(self, now: float, behaviours: Mapping[str, Behaviour]) -> Iterator[Report]:
        for node in self.nodes:
            serves, judges = behaviours[node.revision], behaviours.get(node.candidate)
            calls = _reported_seconds(node.since, now) * CALLS_A_SECOND
            judged = 0.0
            if judges is not None:
                judged = _reported_seconds(node.candidate_since, now) * CALLS_A_SECOND
            changed = judged * judges.changed_share if judges is not None else 0.0
            yield Report(
                node.name,
                "all-0",
                node.revision,
                {
                    "calls": calls,
                    "call_seconds": calls * CALL_SECONDS,
                    "decisions": calls,
                    "denied": calls * (DENIED_SHARE + serves.changed_share),
                    "errors": calls * serves.error_share,
                    "shadow_same": judged - changed,
                    "shadow_changed": changed,
                },
            )


def _reported_seconds(since: float, now: float) -> float:
    """Return for how long an edge had served when it reported last."""
    return max(0.0, now - since) // REPORT_SECONDS * REPORT_SECONDS
