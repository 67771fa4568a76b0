"""Reads the environment of envoyproxy/ratelimit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.configfile import KeyPart, Problem
from sidecars.settings.compat.compose import COMPOSERS, WrongVariableError
from sidecars.settings.compat.table import VARIABLES, Absent, NoEffect, Sets, Variable
from sidecars.settings.compat.values import text

ALWAYS: Final[Mapping[tuple[str, ...], Any]] = {
    ("ratelimit", "store"): "redis",
    ("ratelimit", "algorithm"): "fixed_window",
    ("ratelimit", "metrics"): "envoyproxy",
    ("ratelimit", "headers", "retry_after"): False,
}
"""What envoyproxy/ratelimit does in any case."""


@dataclass(frozen=True, slots=True)
class CompatEnvironment:
    """Settings made of variables of envoyproxy/ratelimit."""

    data: dict[str, Any]
    variables: Mapping[tuple[KeyPart, ...], str]
    """The variable to name for the value at each key path."""
    problems: tuple[Problem, ...]
    without_effect: Mapping[str, str]
    """Variables that are set and change nothing, each with the reason."""


def read_compat_environment(environ: Mapping[str, str]) -> CompatEnvironment:
    """The settings in `environ`, and a problem for each variable that cannot be followed."""
    reader = _Reader(environ)
    for variable in VARIABLES.values():
        reader.read(variable)
    for variable in VARIABLES.values():
        reader.use(variable)
    for compose in COMPOSERS:
        try:
            for path, value, name in compose(reader.values, environ.keys()):
                reader.put(path, value, name)
        except WrongVariableError as error:
            reader.problem(error.variable, str(error))
    for always, value in ALWAYS.items():
        reader.put(always, value, "")
    return CompatEnvironment(
        reader.data, reader.variables, tuple(sorted(reader.problems)), reader.without_effect
    )


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.values: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.variables: dict[tuple[KeyPart, ...], str] = {}
        self.problems: list[Problem] = []
        self._wrong: set[str] = set()
        self.without_effect: dict[str, str] = {}

    def problem(self, name: str, message: str) -> None:
        self.problems.append(Problem(name, 0, "", message))

    def read(self, variable: Variable) -> None:
        """Note the value of `variable`; that of its default where it is wrong."""
        value = self._environ.get(variable.name, variable.default)
        try:
            self.values[variable.name] = variable.read(value)
        except ValueError as error:
            self.problem(variable.name, f"{error}, not {value!r}")
            self._wrong.add(variable.name)
            self.values[variable.name] = variable.read(variable.default)

    def use(self, variable: Variable) -> None:
        """Do what the table says about `variable`."""
        name, value = variable.name, self.values[variable.name]
        given = name in self._environ and name not in self._wrong
        switches = variable.switches
        if switches and not any(self.values[switch] for switch in switches):
            if given and not (variable.read is text and not value):
                self.without_effect[name] = f"only with {' or '.join(switches)}=true"
            return
        match variable.use:
            case Sets(path, convert):
                self.put(path, convert(value), name)
            case Absent(reason, asks_nothing):
                if given and not asks_nothing(value):
                    self.problem(name, reason)
            case NoEffect(reason):
                if given:
                    self.without_effect[name] = reason

    def put(self, path: tuple[KeyPart, ...], value: Any, name: str) -> None:
        """Set the value at `path`, for which `name` is to be named."""
        *above, last = path
        data = self.data
        for key in above:
            data = data.setdefault(str(key), {})
        data[str(last)] = value
        if name:
            self.variables[path] = name
