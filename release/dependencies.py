"""Lists the distributions that edge-sidecars and its extras install, with their licences."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[Mapping[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]

PYTHONS: Final = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")
"""The oldest release of each Python, since a requirement may be for some patch releases only (redis-py's
async-timeout for those before 3.11.3)."""

FEATURES: Final = ("demo", "envoy", "kafka", "login", "logs", "otel", "parquet", "s3", "spool", "zstd")
"""The extras that users install. The others (dev, bench, broker, browser, fuzz, release) are for
contributors."""

ALLOWED: Final = frozenset(
    {
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        # Copyleft for each file. The wheel has none of these files, and we change none.
        "MPL-2.0",
    }
)
"""SPDX identifiers of the licences that a dependency may have."""

_SPDX: Final[Mapping[str, str]] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_UNCLEAR: Final[Mapping[str, str]] = {
    # Installed on Python 3.11.0 to 3.11.2 only, so usually it is not here to be read.
    "async-timeout": "Apache-2.0",
    # "MIT License" as text, and both classifiers: its repository has both files.
    "uvloop": "Apache-2.0 OR MIT",
}


class UnknownLicenceError(Exception):
    """The metadata of a distribution does not say its licence in a form that is known here."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A distribution that edge-sidecars installs."""

    name: str
    licence: str
    """An SPDX expression."""
    wanted_by: tuple[str, ...]
    """The extras that install it; empty if it is always installed."""

    @property
    def allowed(self) -> bool:
        """Whether each licence of the expression is in ALLOWED."""
        return set(re.split(r" (?:AND|OR|WITH) ", re.sub(r"[()]", "", self.licence))) <= ALLOWED


def dependencies() -> list[Dependency]:
    """Return what users can install, by name. Raises UnknownLicenceError."""
    own = canonicalize_name(PROJECT["name"])
    always = set(closure(own)) - {own}
    by_extra = {extra: set(closure(own, {extra})) - {own} for extra in FEATURES}
    names = always.union(*by_extra.values())
    return [
        Dependency(
            name,
            licence_of(name),
            () if name in always else tuple(extra for extra in FEATURES if name in by_extra[extra]),
        )
        for name in sorted(names)
    ]


def closure(name: str, extras: Iterable[str] = ()) -> list[str]:
    """Return the names of all distributions that `name` with `extras` installs on any supported Python."""
    return sorted(set(_needed(name, frozenset(extras), set())))


def _needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for requirement in _required_by(name, extras):
        yield from _needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def _required_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    if name == PROJECT["name"]:
        # Read from the file, because the installed metadata of this project may be older.
        texts = [*PROJECT["dependencies"], *(t for e in extras for t in PROJECT["optional-dependencies"][e])]
    else:
        found = _distribution(name)
        texts = [] if found is None else found.requires or []
    for requirement in map(Requirement, texts):
        if any(_holds(requirement, extra, python) for extra in ("", *extras) for python in PYTHONS):
            yield requirement


def _distribution(name: str) -> Distribution | None:
    """Return the installed distribution; None if only another Python needs it."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _holds(requirement: Requirement, extra: str, python: str) -> bool:
    marker = requirement.marker
    environment = {"extra": extra, "python_full_version": python, "python_version": python.rpartition(".")[0]}
    return marker is None or marker.evaluate(environment)


def licence_of(name: str) -> str:
    """Return the SPDX expression of an installed distribution. Raises UnknownLicenceError.

    The first that is there: the expression of PEP 639, the field License, the classifiers.
    """
    if name in _UNCLEAR:
        return _UNCLEAR[name]
    found = _distribution(name)
    if found is None:
        raise UnknownLicenceError(f"{name}: not installed, so its licence cannot be read; add it to _UNCLEAR")
    metadata = found.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License :: ")
    ]
    field = (metadata.get_all("License") or [""])[0].partition("\n")[0].partition("  ")[0].strip()
    for text in (*metadata.get_all("License-Expression", []), field, *classifiers):
        if not text:
            continue
        try:
            return str(canonicalize_license_expression(_SPDX.get(text, text)))
        except InvalidLicenseExpression:
            continue
    raise UnknownLicenceError(f"{name}: no licence in a known form: {field!r}, {classifiers}")
