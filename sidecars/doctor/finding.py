"""What a check of the doctor says."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """It works, and goes wrong under load, in a restart or in an attack."""
    FAIL = "fail"
    """It does not work, or lets through what it should not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: the name of the check, what was seen, and the fix unless all is well."""

    level: Level
    check: str
    seen: str
    fix: str = ""


def ok(check: str, seen: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(Level.OK, check, seen)


def warn(check: str, seen: str, fix: str) -> Finding:
    """Return a finding that should be fixed."""
    return Finding(Level.WARN, check, seen, fix)


def fail(check: str, seen: str, fix: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(Level.FAIL, check, seen, fix)
