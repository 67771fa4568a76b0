"""Gives a problem without a line its place: where the settings, or a policy, name its file or key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.configfile import SETTINGS, ConfigError, KeyPart, Problem, read
from sidecars.settings.load import Reading
from sidecars.settings.root import Settings

_Path = tuple[KeyPart, ...]


def at_its_name(reading: Reading, settings: Settings, problem: Problem) -> Problem:
    """`problem` with the line and key that name its file, where it has none and they can be found.

    A sidecar that asks for more than its own section says so of the file SETTINGS, which it does not know.
    """
    if problem.file == SETTINGS:
        return reading.locate(problem.key_path.split("."), problem.message)
    if problem.line or problem.key_path:
        return problem
    message = f"{problem.file}: {problem.message}"
    for section, key in (("authz", "policy"), ("ratelimit", "limits"), ("accesslog", "route_rules")):
        for index, path in enumerate(getattr(getattr(settings, section), key, ())):
            if str(path) == problem.file:
                return reading.locate((section, key, index), message)
    return next(_in_policies(settings, Path(problem.file), message), problem)


def _in_policies(settings: Settings, file: Path, message: str) -> Iterator[Problem]:
    """The places in policy files that name `file`: key sets, API keys, secrets."""
    if settings.authz is None:
        return
    from authz.policy.compile.load import policy_files

    try:
        for path in policy_files(settings.authz.policy):
            document = read(path)
            for place, text in _texts(document.data, ()):
                if path.parent / text == file:
                    yield document.problem(place, message)
    except ConfigError:
        return  # the loader reports problems of a policy file


def _texts(data: Any, path: _Path) -> Iterator[tuple[_Path, str]]:
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, dict):
        for key, below in data.items():
            yield from _texts(below, (*path, str(key)))
    elif isinstance(data, list):
        for index, below in enumerate(data):
            yield from _texts(below, (*path, index))
