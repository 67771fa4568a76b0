"""Paths that begin with `{bundle}`: they lead into the folder of the bundle in service."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from common.configfile import KeyPart
from sidecars.settings.listen import BUNDLE
from sidecars.settings.root import Settings

_PATHS: Final = (
    ("authz", "policy"),
    ("ratelimit", "limits"),
    ("accesslog", "redact", "policy"),
    ("accesslog", "route_rules"),
)
"""The lists of paths that may lead into a bundle."""


def sections_in_bundle(settings: Settings) -> tuple[str, ...]:
    """The sections that name a path in the bundle."""
    return tuple(dict.fromkeys(str(place[0]) for place, _ in _placed(settings)))


def in_bundle(settings: Settings, folder: Path) -> Settings:
    """The settings with each `{bundle}` replaced by `folder`."""
    for name, *keys in _PATHS:
        section = getattr(settings, name)
        if section is not None:
            settings = settings.model_copy(update={name: _changed(section, keys, folder)})
    return settings


def in_kept_bundle(settings: Settings) -> Settings:
    """The settings for a command: paths lead into the bundle that a process on this machine keeps, if any.

    Blocks on the disk.
    """
    if settings.bundle is None:
        return settings
    folders = sorted(settings.bundle.folder.glob("*/serving"))
    return in_bundle(settings, folders[0]) if folders else settings


def as_far_as_kept(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings with the bundle that is kept here; without one, the sections that need it are left out.

    Also returns the names of those. Blocks on the disk.
    """
    settings = in_kept_bundle(settings)
    names = sections_in_bundle(settings)
    return settings.model_copy(update=dict.fromkeys(names)), names


def validate_bundle_paths(settings: Settings) -> Iterator[tuple[tuple[KeyPart, ...], str]]:
    """What in `settings` leads into a bundle that no section describes: key paths and messages."""
    if settings.bundle is None:
        for place, path in _placed(settings):
            yield place, f"{path} needs the section bundle, which says where bundles come from"


def _placed(settings: Settings) -> Iterator[tuple[tuple[KeyPart, ...], Path]]:
    for name, *keys in _PATHS:
        value: Any = getattr(settings, name)
        for key in keys:
            value = None if value is None else getattr(value, key)
        for index, path in enumerate(value or ()):
            if path.parts[:1] == (BUNDLE,):
                yield (name, *keys, index), path


def _changed(block: Any, keys: Sequence[str], folder: Path) -> Any:
    first, *rest = keys
    value = getattr(block, first)
    if rest:
        return block.model_copy(update={first: _changed(value, rest, folder)})
    paths = tuple(folder.joinpath(*path.parts[1:]) if path.parts[:1] == (BUNDLE,) else path for path in value)
    return block.model_copy(update={first: paths})
