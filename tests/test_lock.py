"""constraints.txt holds a version of everything that `make demo` and `make test` install."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def asked_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What `name` with `extras` requires on this machine."""
    if name == PROJECT["name"]:
        # From the file: what is installed of ourselves may be older.
        texts = [*PROJECT["dependencies"], *(t for e in extras for t in PROJECT["optional-dependencies"][e])]
    else:
        texts = distribution(name).requires or []
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """The names of everything that `name` with `extras` brings along."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for requirement in asked_by(name, extras):
        yield from needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def test_everything_that_is_installed_is_locked() -> None:
    locked = {canonicalize_name(line.partition("==")[0]) for line in LINES}
    asked = set(needed(PROJECT["name"], frozenset({"dev"}), set())) - {PROJECT["name"]}
    # Part of every environment; `make lock` leaves them to it.
    assert asked - locked <= {"setuptools", "pip"}


def test_the_lock_names_versions_and_no_address() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
