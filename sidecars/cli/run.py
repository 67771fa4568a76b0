"""`sidecars run`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sidecars.cli.root import new_root


class Which(StrEnum):
    """What may be run."""

    AUTHZ = "authz"
    RATELIMIT = "ratelimit"
    ACCESSLOG = "accesslog"
    ALL = "all"


def run(
    which: Annotated[
        Which,
        typer.Argument(metavar="WHICH", help="One sidecar, or all that the file configures."),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The settings file (YAML).", show_default=False),
    ] = None,
    compat: Annotated[
        bool,
        typer.Option(
            "--compat",
            help="Without a file: take the settings from the environment of envoyproxy/ratelimit.",
        ),
    ] = False,
    worker: Annotated[
        int | None,
        typer.Option(hidden=True, min=0, help="What a supervisor starts each of its workers with."),
    ] = None,
) -> int:
    """Run sidecars until SIGTERM or Ctrl-C.

    Settings may also come from the environment: SIDECARS_LOG__LEVEL=debug is `log.level`.
    SIGHUP, or a changed file, reloads policy and limits; bad ones never replace good ones.
    The settings file itself is read at the start only.
    With `workers: N` this process starts N that serve, and starts a dead one again.
    SIGTERM drains: calls in flight finish first. A second signal ends the process at once.

    With `--compat` the variables are those of envoyproxy/ratelimit, as docs/migrating.md lists them, and
    SIDECARS_* variables add what is ours alone.

    Example: `sidecars run all --config examples/sidecars.yaml`, or `sidecars run ratelimit --compat`

    Exit codes: 0 stopped as asked; 1 failed (an address is taken, for instance);
    2 bad usage, an environment shared with a package of the same name, or bad configuration, with every
    problem found as FILE:LINE: KEY: PROBLEM.
    """
    from sidecars.cli.conflicts import check_environment
    from sidecars.cli.serve import run as run_process
    from sidecars.cli.serve import run_compat, run_worker
    from sidecars.settings.load import ENVIRONMENT

    if compat and (config is not None or which is not Which.RATELIMIT):
        raise typer.BadParameter("--compat is for `sidecars run ratelimit`, without --config")
    if config is None and not compat:
        raise typer.BadParameter("Missing option '--config' / '-c'")
    if worker is not None:
        return run_worker(config or ENVIRONMENT, which, os.environ, worker)
    check_environment()
    return run_process(config, which, os.environ) if config is not None else run_compat(which, os.environ)


app = new_root()
"""The command line with `run` alone, for a process that serves."""
app.command("run")(run)
app.callback()(lambda: None)  # without it Typer would take `run` for an argument
