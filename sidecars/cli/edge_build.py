"""`sidecars edge build`: from intent to the files of the sidecars and of Envoy."""

from pathlib import Path
from typing import Annotated

import typer

from common.configfile import ConfigError
from sidecars.cli.edge_check import Day, Folder, day_of
from sidecars.cli.report import report


def build(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder for the files.", file_okay=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say which files of DIR a build would change.")
    ] = False,
    day: Day = None,
) -> None:
    """Build policy, limits, log rules and Envoy's configuration from intent: the same bytes each time.

    Example: `sidecars edge build examples/edge --out built`

    DIR gets policy.json, limits.json and accesslog.json for the sidecars, envoy.json and envoy-files.json for
    an Envoy without a control plane, xds/*.json for xDS servers, and sovereign.json, a template context for
    Sovereign. Files that stay the same are not written again.

    Exit codes: 0 built; 1 the intent has problems, one a line, or `--check` found a difference; 2 bad usage.
    """
    from edge.build.build import build as built_from
    from edge.build.write import changed_files, write_files
    from edge.intent.estate import load_estate
    from sidecars.cli.exit import WRONG

    try:
        estate = load_estate(folder, day_of(day))
        built = built_from(estate)
    except ConfigError as error:
        report(error.problems)
    changed = list(changed_files(built, out)) if check else write_files(built, out)
    verb = "would change" if check else "changed"
    routes = sum(len(service.routes) for service in estate.services)
    what = f"{routes} routes of {len(estate.services)} services, revision {built.revision}"
    typer.echo(
        f"{'differs' if check and changed else 'ok'}: {what}; {verb}: {', '.join(changed) or 'nothing'}"
    )
    if check and changed:
        raise typer.Exit(WRONG)
