"""The `sidecars` command: each group of commands in a file of its own."""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog imports rich for tracebacks that our log never draws: 4 MB in every process.
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog  # noqa: F401

    del sys.modules["rich"]

from sidecars.cli.entry import main

__all__ = ["main"]
