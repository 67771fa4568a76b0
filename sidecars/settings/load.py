"""Reads Settings from one YAML file and the environment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from common.configfile import ConfigError, Document, KeyPart, Problem, findings_of, key_path_text, read
from sidecars.settings.environment import Environment, merge, read_environment
from sidecars.settings.in_bundle import in_kept_bundle, validate_bundle_paths
from sidecars.settings.masking import redact
from sidecars.settings.per_worker import validate_for_workers
from sidecars.settings.root import Settings
from sidecars.transport.api.limits import Lifetime, Limits

ENVIRONMENT: Final = Path("environment")
"""The place of settings that no file holds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a settings file holds, and everything wrong with it."""

    path: Path
    settings: Settings | None
    """The sections without problems, or None where too few are left."""
    problems: tuple[Problem, ...]
    locate: Callable[[Sequence[KeyPart], str], Problem]
    """A message about a key path, as a problem that names the line or the variable where it is written."""


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings in the file at `path`, overridden by the `SIDECARS_*` variables of `environ`.

    This is for commands: a path in a bundle leads into the one that a process on this machine keeps.
    Raises ConfigError with every problem of both.
    """
    reading = read_settings(path, environ)
    if reading.problems or reading.settings is None:
        raise ConfigError(reading.problems)
    return in_kept_bundle(reading.settings)


def read_settings(path: Path, environ: Mapping[str, str]) -> Reading:
    """As `load_settings`, but returns the problems together with the settings that are usable.

    So that the files named by the good sections can be checked in the same run.
    """
    environment = read_environment(environ, Settings)
    try:
        document = read(path)
    except ConfigError as error:
        return Reading(path, None, (*error.problems, *environment.problems), partial(_nowhere, path))
    data: Any = {} if document.data is None else document.data
    if isinstance(data, dict):
        merge(data, environment.data)

    def written(at: Sequence[KeyPart]) -> str | None:
        return None if environment.variable_of(tuple(at)) else document.text(at)

    settings, findings = _validated(data, path.parent, written)
    locate = partial(_locate, document, environment)
    problems = [locate(at, message) for at, message in findings]
    return Reading(path, settings, (*environment.problems, *problems), locate)


def read_compat(environ: Mapping[str, str]) -> tuple[Reading, Mapping[str, str]]:
    """The settings that variables of envoyproxy/ratelimit make, overridden by `SIDECARS_*` variables.

    Also returns the variables that are set and change nothing, each with the reason. Relative paths are
    resolved against the working directory.
    """
    # Here, so that a process with settings of our own does not load the table of theirs.
    from sidecars.settings.compat.read import read_compat_environment

    compat = read_compat_environment(environ)
    own = read_environment(environ, Settings)
    merge(compat.data, own.data)
    settings, findings = _validated(compat.data, Path(), lambda _: None)
    problems = (*compat.problems, *own.problems)
    environment = Environment(compat.data, {**compat.variables, **own.variables}, problems)
    locate = partial(_locate, Document(str(ENVIRONMENT), compat.data, None), environment)
    found = [
        locate(at, message)
        for at, message in findings
        # A setting without a variable is missing because one of those in `compat.problems` is wrong.
        if environment.variable_of(tuple(at)) or not compat.problems
    ]
    return Reading(ENVIRONMENT, settings, (*problems, *found), locate), compat.without_effect


def _validated(
    data: Any, folder: Path, written: Callable[[Sequence[KeyPart]], str | None]
) -> tuple[Settings | None, list[tuple[tuple[KeyPart, ...], str]]]:
    """The sections of `data` without problems, and what is wrong with the others."""
    context = {"folder": folder}
    findings: list[tuple[tuple[KeyPart, ...], str]] = []
    settings: Settings | None
    try:
        settings = Settings.model_validate(data, context=context)
    except ValidationError as error:
        findings = list(findings_of(error, data, Settings, written))
        settings = _without(findings, data, context)
    if settings is not None:
        findings += validate_for_workers(settings)
        findings += validate_for_transport(settings)
        if not any(path[:1] == ("bundle",) for path, _ in findings):  # else it is there, with an error
            findings += validate_bundle_paths(settings)
    return settings, findings


def reading_of(path: Path, settings: Settings, environ: Mapping[str, str]) -> Reading:
    """Settings that another process has read from the file at `path` and from `environ`.

    The file is read again for its lines alone.
    """
    if path == ENVIRONMENT:
        return Reading(path, settings, (), partial(_nowhere, path))
    try:
        locate = partial(_locate, read(path), read_environment(environ, Settings))
    except ConfigError:
        return Reading(path, settings, (), partial(_nowhere, path))
    return Reading(path, settings, (), locate)


def _nowhere(file: Path, path: Sequence[KeyPart], message: str) -> Problem:
    return Problem(str(file), 0, key_path_text(path), redact(message))


def _locate(document: Document, environment: Environment, path: Sequence[KeyPart], message: str) -> Problem:
    found = document.problem(path, redact(message))  # the message may show the wrong value
    variable = environment.variable_of(tuple(path))
    return Problem(variable, 0, found.key_path, found.message) if variable else found


def _without(
    findings: list[tuple[tuple[KeyPart, ...], str]], data: Any, context: Mapping[str, Any]
) -> Settings | None:
    bad_sections = {path[0] for path, _ in findings if path}
    if len(bad_sections) < len({path[:1] for path, _ in findings}):
        return None  # something is wrong with the file as a whole
    rest = {key: value for key, value in data.items() if key not in bad_sections}
    try:
        return Settings.model_validate(rest, context=context)
    except ValidationError:
        return None


_GRPCIO_LIMITS: Final = frozenset({"max_message_bytes", "max_concurrent_streams"})
"""Those of `connections.limits` that grpc.aio has an option for."""


def validate_for_transport(settings: Settings) -> Iterator[tuple[tuple[KeyPart, ...], str]]:
    """What in `settings` the transport cannot keep: key paths and messages. No limit is silently ignored."""
    if settings.transport == "native":
        return
    for name in ("authz", "ratelimit", "accesslog"):
        section = getattr(settings, name)
        for index, address in enumerate(section.listen if section is not None else ()):
            if address.tls is not None:
                yield (
                    (name, "listen", index, "tls"),
                    "needs `transport: native`: grpcio is served without TLS",
                )
            if address.trusted is not None:
                yield (name, "listen", index, "trusted"), "needs `transport: native`: grpcio trusts no peer"
    for part, defaults in (("limits", Limits()), ("lifetime", Lifetime())):
        given = getattr(settings.connections, part)
        for key in (field.name for field in fields(defaults)):
            if getattr(given, key) != getattr(defaults, key) and key not in _GRPCIO_LIMITS:
                yield ("connections", part, key), "needs `transport: native`: grpcio does not know it"
