"""`sidecars limits`: the limits of ratelimit."""

from pathlib import Path
from typing import Annotated

import typer

from common.configfile import ConfigError
from sidecars.cli.report import report

app = typer.Typer(help="Work with rate limit files.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own while it is the only one."""


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Limits files, or folders of them.", exists=True)
    ],
    merge_domains: Annotated[
        bool, typer.Option("--merge-domains", help="Several files may add to one domain.")
    ] = False,
) -> None:
    """Check limits files together, as ratelimit would load them. Reads the files of envoyproxy/ratelimit.

    Example: `sidecars limits check examples/limits/`

    Exit codes: 0 ratelimit would load them; 1 problems were found, one a line; 2 bad usage.
    """
    from ratelimit.config import load_limits
    from ratelimit.rules import Options

    try:
        limits = load_limits(files, Options(merge_domains=merge_domains))
    except ConfigError as error:
        report(error.problems)
    typer.echo(f"ok: {len(limits.rules)} limits in {len(limits.domains)} domains, revision {limits.revision}")
