"""constraints.txt has a version of everything that `make demo` and `make test` install."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PYTHONS = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")
"""The oldest release of each Python, since a requirement may be for some patch releases only (redis-py's
async-timeout for those before 3.11.3)."""


def required_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield the requirements of `name` with `extras` on any supported Python."""
    if name == PROJECT["name"]:
        # Read from the file, because the installed metadata of this project may be older.
        texts = [*PROJECT["dependencies"], *(t for e in extras for t in PROJECT["optional-dependencies"][e])]
    else:
        texts = requirements_of(name)
    for requirement in map(Requirement, texts):
        if any(holds(requirement, extra, python) for extra in ("", *extras) for python in PYTHONS):
            yield requirement


def requirements_of(name: str) -> list[str]:
    """Return the requirements of a package; none if another Python needs it and this one lacks it."""
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        return []


def holds(requirement: Requirement, extra: str, python: str) -> bool:
    marker = requirement.marker
    environment = {"extra": extra, "python_full_version": python, "python_version": python.rpartition(".")[0]}
    return marker is None or marker.evaluate(environment)


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Return the names of all packages that `name` with `extras` installs."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for requirement in required_by(name, extras):
        yield from needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def test_everything_that_is_installed_is_locked() -> None:
    locked = {canonicalize_name(line.partition("==")[0]) for line in LINES}
    asked = set(needed(PROJECT["name"], frozenset({"dev"}), set())) - {PROJECT["name"]}
    # Part of every environment, so `make lock` omits them.
    assert asked - locked <= {"setuptools", "pip"}


def test_the_lock_names_versions_and_no_address() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
