"""`sidecars limits`: the limits of ratelimit."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from common.configfile import ConfigError
from sidecars.cli.report import report, warn

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
    folder_files: Annotated[
        Literal["yaml", "visible", "all"],
        typer.Option(help="Which files of a folder are read; see the setting."),
    ] = "yaml",
) -> None:
    """Check limits files together, as ratelimit would load them. Reads the files of envoyproxy/ratelimit.

    Example: `sidecars limits check examples/limits/`

    A warning names each entry of a folder that is skipped, and each domain that limits nothing.

    Exit codes: 0 ratelimit would load them; 1 problems were found, one a line; 2 bad usage.
    """
    from ratelimit.config import load_limits
    from ratelimit.files import FolderFiles
    from ratelimit.rules import Options

    options = Options(merge_domains=merge_domains, folder_files=FolderFiles(folder_files))
    try:
        limits = load_limits(files, options)
    except ConfigError as error:
        report(error.problems)
    warn(limits.warnings)
    typer.echo(f"ok: {len(limits.rules)} limits in {len(limits.domains)} domains, revision {limits.revision}")
