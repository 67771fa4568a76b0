"""Builds each of the three sidecars from its section of the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.configfile import ConfigError, Problem
from sidecars.process.watch import FileBaseline
from sidecars.services.sidecar import Dependencies, Sidecar
from sidecars.settings.root import Settings
from sidecars.transport.api.address import Address

Builder = Callable[[Any, Dependencies], Sidecar]
"""A service's `build`: makes the sidecar from its section and the dependencies, or raises ConfigError."""


@dataclass(frozen=True, slots=True)
class BoundSidecar:
    """A sidecar and where it listens."""

    sidecar: Sidecar
    listen: tuple[Address, ...]
    before: FileBaseline
    """The state of its files before it read them."""


def _authz(section: Any, dependencies: Dependencies) -> Sidecar:
    from sidecars.services.authz.sidecar import build

    return build(section, dependencies)


def _ratelimit(section: Any, dependencies: Dependencies) -> Sidecar:
    from sidecars.services.ratelimit import build

    return build(section, dependencies)


def _accesslog(section: Any, dependencies: Dependencies) -> Sidecar:
    from sidecars.services.accesslog import build

    return build(section, dependencies)


BUILDERS: Mapping[str, Builder] = {"authz": _authz, "ratelimit": _ratelimit, "accesslog": _accesslog}
"""Builders by name; each imports its service when called, so that a process loads only what it runs."""

_FILES: Mapping[str, Callable[[Any, Dependencies], Sequence[Path]]] = {
    "authz": lambda section, _: section.policy,
    "ratelimit": lambda section, _: section.limits,
    "accesslog": lambda section, dependencies: section.redact.policy or dependencies.policy,
}
"""The files and folders that a section names for its sidecar to read, and to watch."""


def build(
    settings: Settings,
    names: Sequence[str],
    dependencies: Dependencies,
    builders: Mapping[str, Builder] = BUILDERS,
) -> tuple[BoundSidecar, ...]:
    """The sidecars `names`, built but not started. Raises ConfigError with the problems of all of them."""
    bound = []
    problems: list[Problem] = []
    for name in names:
        section = getattr(settings, name)
        before = FileBaseline.read(_FILES[name](section, dependencies), dependencies.wall_clock)
        try:
            bound.append(BoundSidecar(builders[name](section, dependencies), section.listen, before))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        # authz and accesslog may read the same policy.
        raise ConfigError(list(dict.fromkeys(problems)))
    return tuple(bound)


def configured(settings: Settings) -> tuple[str, ...]:
    """The names of the sidecars that `settings` has a section for."""
    return tuple(name for name in BUILDERS if getattr(settings, name) is not None)
