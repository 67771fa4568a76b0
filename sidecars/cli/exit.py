"""The exit codes, the same for every command."""

OK = 0
WRONG = 1
"""A check found something wrong, or something failed."""
USAGE = 2
"""Wrong use of the command line, or configuration that a process cannot start with."""
