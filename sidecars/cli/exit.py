"""The exit codes, the same for every command."""

from typing import Final

OK: Final = 0
WRONG: Final = 1
"""A check found something wrong, or something failed."""
USAGE: Final = 2
"""Wrong use of the command line, or configuration that a process cannot start with."""
