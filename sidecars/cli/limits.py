"""`sidecars limits`: the limits of ratelimit."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from common.configfile import ConfigError
from sidecars.cli.limits_bans import app as bans_app
from sidecars.cli.limits_recorded import simulate, suggest
from sidecars.cli.limits_reset import reset
from sidecars.cli.limits_top import top
from sidecars.cli.report import report, warn

app = typer.Typer(help="Work with rate limit files.", no_args_is_help=True)
app.add_typer(bans_app, name="bans")
app.command()(simulate)
app.command()(suggest)
app.command()(top)
app.command()(reset)


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


@app.command()
def explain(
    descriptors: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE,...", help="The descriptors of one request, each with its entries."
        ),
    ],
    domain: Annotated[str, typer.Option(help="The domain of Envoy's ratelimit filter.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The settings file of ratelimit.", exists=True),
    ] = None,
    limits: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Limits files or folders, instead of --config.", exists=True),
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="The settings are the environment of envoyproxy/ratelimit.")
    ] = False,
    running: Annotated[
        bool, typer.Option("--running", help="Ask the running process on the admin port of the settings.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain the limits of one request: which rule applies to each descriptor, why, and what is left.

    Example: `sidecars limits explain -c sidecars.yaml --domain edge remote_address=192.0.2.1`

    With `store: redis` in the settings, the command asks Redis what is left, and charges nothing. With
    `--running` it asks the process, which knows the buckets in its memory, too.

    Exit codes: 0 explained; 1 the files have problems, or Redis or the process does not answer; 2 bad usage.
    """
    from ratelimit.stores.store import StoreError
    from sidecars.cli.exit import WRONG
    from sidecars.cli.limits_explain import explain as explained_by
    from sidecars.cli.limits_explain import explain_running, print_explained
    from sidecars.cli.limits_running import NotRunningError

    config = _config(config, limits, "--limits", compat=compat, running=running)
    environ = dict(os.environ)
    try:
        if running and config is not None:
            explained = explain_running(config, domain, descriptors, environ)
        else:
            explained = explained_by(config, limits or [], domain, descriptors, environ)
    except ConfigError as error:
        report(error.problems)
    except NotRunningError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG) from None
    except StoreError as error:
        typer.echo(f"Redis gives no answer: {error}", err=True)
        raise typer.Exit(WRONG) from None
    print_explained(explained, json=json)


@app.command()
def show(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Limits files or folders, instead of --config.", exists=True),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The settings file of ratelimit.", exists=True),
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="The settings are the environment of envoyproxy/ratelimit.")
    ] = False,
    running: Annotated[
        bool, typer.Option("--running", help="Ask the running process on the admin port of the settings.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every limit: domain and keys, limit, algorithm, modes, on_failure, file and line.

    Example: `sidecars limits show -c sidecars.yaml`, and with `--running` what the process uses now.

    Exit codes: 0 shown; 1 the files have problems, or the process does not answer; 2 bad usage.
    """
    from sidecars.cli.exit import WRONG
    from sidecars.cli.limits_running import NotRunningError
    from sidecars.cli.limits_show import print_limits, shown_limits

    config = _config(config, files, "files", compat=compat, running=running)
    try:
        data = shown_limits(config, files or [], dict(os.environ), running=running)
    except ConfigError as error:
        report(error.problems)
    except NotRunningError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG) from None
    print_limits(data, json=json)


def _config(
    config: Path | None, files: list[Path] | None, name: str, *, compat: bool, running: bool
) -> Path | None:
    """Return the settings file, ENVIRONMENT with `compat`, or None with limits files. Raises BadParameter."""
    from sidecars.settings.load import ENVIRONMENT

    if sum((config is not None, bool(files), compat)) != 1:
        raise typer.BadParameter(f"give one of --config, --compat and {name}", param_hint="--config")
    if running and files:
        text = "needs --config or --compat, which name the admin port"
        raise typer.BadParameter(text, param_hint="--running")
    return ENVIRONMENT if compat else config
