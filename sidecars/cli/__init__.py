"""The `sidecars` command: each group of commands in a file of its own."""

from sidecars.cli.app import main

__all__ = ["main"]
