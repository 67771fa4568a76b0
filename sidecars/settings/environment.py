"""`SIDECARS_*` variables as settings: `SIDECARS_ADMIN__LISTEN` is `admin.listen`, and wins over the file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import BaseModel, create_model

from common.configfile import KeyPart, Problem

PREFIX: Final = "SIDECARS_"

_KUBERNETES_SERVICE_LINK: Final = re.compile(r"SIDECARS_(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?")
"""Variables that Kubernetes adds to every pod for a Service named `sidecars`: not settings."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The settings found in the environment."""

    data: dict[str, Any]
    variables: Mapping[tuple[KeyPart, ...], str]
    """The variable behind each key path."""
    problems: tuple[Problem, ...]

    def variable_of(self, path: tuple[KeyPart, ...]) -> str | None:
        """The variable that gave the value at `path` or around it, if one did."""
        return next(
            (self.variables[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.variables),
            None,
        )


def read_environment(environ: Mapping[str, str], model: type[BaseModel]) -> Environment:
    """The settings of `model` in `environ`, and a problem for each variable that is unknown or unreadable."""
    names = [
        name
        for name in sorted(environ)
        if name.startswith(PREFIX) and not _KUBERNETES_SERVICE_LINK.fullmatch(name)
    ]
    if not names:
        return Environment({}, {}, ())
    # Imported here: with a second model of all settings it takes 3 MB, in every process.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

    source = EnvSettingsSource(
        create_model("Settings", __base__=cast("tuple[type[BaseSettings], ...]", (model, BaseSettings))),
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )
    data: dict[str, Any] = {}
    variables: dict[tuple[KeyPart, ...], str] = {}
    problems = []
    for name in names:
        # One variable at a time, so that each problem can name its own; the constructor read os.environ.
        source.env_vars = {name.lower(): environ[name]}
        try:
            found = source()
        except SettingsError:
            problems.append(
                _problem(name, 'is not JSON: a list or mapping is written as ["a", "b"] or {"key": 1}')
            )
            continue
        if not found:
            problems.append(_problem(name, "no such setting; keys are joined by two underscores"))
        for path in _leaves(found):
            variables[path] = name
        merge(data, found)
    return Environment(data, variables, tuple(problems))


def merge(data: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put `over` into `data`: mappings key by key, every other value whole."""
    for key, value in over.items():
        below = data.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merge(below, value)
        else:
            data[key] = value


def _problem(variable: str, message: str) -> Problem:
    return Problem(variable, 0, "", message)


def _leaves(data: Mapping[str, Any], above: tuple[KeyPart, ...] = ()) -> list[tuple[KeyPart, ...]]:
    paths: list[tuple[KeyPart, ...]] = []
    for key, value in data.items():
        path = (*above, key)
        paths.extend(_leaves(value, path) if isinstance(value, dict) and value else [path])
    return paths
