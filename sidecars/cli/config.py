"""`sidecars config`: the settings file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from common.configfile import ConfigError
from sidecars.cli.report import report, warn

if TYPE_CHECKING:  # else every command would load the settings
    from sidecars.settings.load import Reading

app = typer.Typer(help="Check the settings file, and list every setting.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The settings file.", exists=True, dir_okay=False),
    ] = None,
    compat: Annotated[
        bool,
        typer.Option(
            "--compat",
            help="Without a file: check the environment of envoyproxy/ratelimit.",
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Check no TLS files and no folders of sockets and logs: for a machine that will not serve.",
        ),
    ] = False,
) -> None:
    """Check a settings file, SIDECARS_* variables, and the policy and limits files they name.

    It also checks what they need on this machine: TLS files that fit together, folders of sockets and logs.
    It warns of ports that every network reaches without TLS, and of limits files that are not loaded.
    With `--compat` it checks what `sidecars run ratelimit --compat` would run with, and warns of variables
    without effect.

    Example: `sidecars config check examples/sidecars.yaml`, or `sidecars config check --compat`

    Exit codes: 0 a process would start with it; 1 problems were found, one a line; 2 bad usage.
    """
    from sidecars.cli.conflicts import check_environment
    from sidecars.cli.serve import ALL, assemble
    from sidecars.process.assembly import configured
    from sidecars.services.sidecar import Warns
    from sidecars.settings.load import read_compat, read_settings
    from sidecars.settings.machine import on_this_machine, open_to_all

    if compat == (file is not None):
        raise typer.BadParameter("name a settings file, or give --compat", param_hint="FILE")
    check_environment()
    without_effect: Mapping[str, str] = {}
    if file is None:
        reading, without_effect = read_compat(os.environ)
    else:
        reading = read_settings(file, os.environ)
    if not offline:
        reading = on_this_machine(reading)
    if reading.settings is not None:
        warn(reading.locate(path, message) for path, message in open_to_all(reading.settings))
    for variable, why in without_effect.items():
        typer.echo(f"warning: {variable} has no effect: {why}", err=True)
    reading, in_bundle = _with_bundle(reading)
    for name in in_bundle:
        typer.echo(
            f"warning: {name} is not checked: its files come with a bundle, and none is here", err=True
        )
    if (
        in_bundle
        and reading.settings is not None
        and not reading.problems
        and not configured(reading.settings)
    ):
        typer.echo(f"{file or 'environment'}: ok")
        return
    try:
        assembly = assemble(reading, ALL)
    except ConfigError as error:
        report(error.problems)
    warn(each for one in assembly.bound if isinstance(one.sidecar, Warns) for each in one.sidecar.warnings)
    names = ", ".join(one.sidecar.name for one in assembly.bound)
    typer.echo(f"{file or 'environment'}: ok ({names})")


def _with_bundle(reading: "Reading") -> tuple["Reading", tuple[str, ...]]:
    """The settings that can be checked here, and the sections that are left out (`as_far_as_kept`)."""
    from sidecars.settings.in_bundle import as_far_as_kept

    if reading.settings is None:
        return reading, ()
    settings, names = as_far_as_kept(reading.settings)
    return replace(reading, settings=settings), names


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors and other tools.

    Example: `sidecars config schema > sidecars.schema.json`, and in the settings file the first line
    `# yaml-language-server: $schema=sidecars.schema.json`
    """
    from sidecars.settings.root import Settings

    text = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    typer.echo(orjson.dumps(text, option=orjson.OPT_INDENT_2))
