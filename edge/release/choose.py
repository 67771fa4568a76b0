"""Which revision an edge serves: each decides by itself, and the same file and node give the same answer."""

import hashlib
from collections.abc import Mapping

from edge.release.model import Release, Target, Wave


def position(node: str) -> float:
    """Return the place of a node between 0 and 100, evenly spread, the same in every release.

    A node of the first 5 percent is therefore also one of the first 50.
    """
    return int.from_bytes(hashlib.sha256(node.encode()).digest()[:8]) / 2**64 * 100


def is_in(wave: Wave, node: str, metadata: Mapping[str, str]) -> bool:
    """Return whether a node belongs to a wave."""
    matches = all(metadata.get(key) == value for key, value in wave.match.items())
    return matches and position(node) < wave.percent


def target_of(release: Release, node: str, metadata: Mapping[str, str]) -> Target:
    """Return what a node serves."""
    if release.previous is None or release.complete:
        return release.current
    active = release.waves[: release.active]
    return release.current if any(is_in(wave, node, metadata) for wave in active) else release.previous
