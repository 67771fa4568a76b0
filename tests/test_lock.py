"""constraints.txt holds a version of everything that `make demo` and `make test` install."""

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """The names of everything that `name` with `extras` brings along here."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield from needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def test_everything_that_is_installed_is_locked() -> None:
    locked = {
        canonicalize_name(re.split("==", line)[0]) for line in CONSTRAINTS.read_text("utf-8").splitlines()
    }
    asked = set(needed("edge-sidecars", frozenset({"dev"}), set())) - {"edge-sidecars"}
    # Part of every environment; `make lock` leaves them to it.
    assert asked - locked <= {"setuptools", "pip"}


def test_the_lock_names_versions_and_no_address() -> None:
    for line in CONSTRAINTS.read_text("utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
