"""What can be wrong in a configuration file, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Final

KeyPart = str | int

SETTINGS: Final = "settings"
"""As the file of a problem: the settings of the process, which alone knows their file and lines."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one place.

    `line` counts from 1; 0 means that the whole file is meant. `message` says what is wrong and,
    where it can, what would be right.
    """

    file: str
    line: int
    key_path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key_path}: {self.message}" if self.key_path else f"{where}: {self.message}"


class ConfigError(Exception):
    """Configuration that cannot be used. `problems` holds every one found, never just the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def of(cls, file: Path | str, message: str) -> "ConfigError":
        """A single problem that concerns a file as a whole."""
        return cls([Problem(str(file), 0, "", message)])


def json_place(error: JSONDecodeError) -> str:
    """Where a text stops being JSON: `line 3, character 5`."""
    return f"line {error.lineno}, character {error.colno}"


def key_path_text(path: Sequence[KeyPart]) -> str:
    """A key path as people write it: `("rules", 3, "host")` becomes `rules[3].host`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
