"""Finds other distributions that installed files into our packages.

The packages of this application have generic names. A distribution such as `ratelimit` from PyPI, installed
into the same environment, silently replaces files of ours, and removes them when it is uninstalled.
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from typing import Final

OURS: Final = "edge-sidecars"
PACKAGES: Final = ("accesslog", "authz", "common", "edge", "protos", "ratelimit", "sidecars")

_OWNED: Final = re.compile(rf"^({'|'.join(PACKAGES)})(?:/|\.py\b)", re.MULTILINE)
_TOP_LEVEL: Final = re.compile(rf"^({'|'.join(PACKAGES)})$", re.MULTILINE)


class ConflictError(Exception):
    """Another distribution owns one of our packages; the message says which, and what to do."""


def check_environment(found: Iterable[Distribution] | None = None) -> None:
    """Raise ConflictError if a distribution in `found` (default: all installed) has files in our packages."""
    for distribution in distributions() if found is None else found:
        packages = _packages_of(distribution)
        if not packages:
            continue
        name = distribution.metadata["Name"]
        if _normalised(name) == OURS:
            continue
        raise ConflictError(
            f"the distribution {name} {distribution.version} in this environment has files in the "
            f"{'packages' if len(packages) > 1 else 'package'} {', '.join(packages)} of {OURS}, and may have "
            f"replaced some; install {OURS} into an environment of its own, as `pipx install` and "
            "`uv tool install` do"
        )


def _packages_of(distribution: Distribution) -> list[str]:
    # The text is searched as it is: parsing each RECORD would take twenty times as long.
    record = distribution.read_text("RECORD")
    if record is not None:
        return sorted(set(_OWNED.findall(record)))
    return sorted(set(_TOP_LEVEL.findall(distribution.read_text("top_level.txt") or "")))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
