"""`sidecars edge build`: from intent to the files of the sidecars and of Envoy."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from common.configfile import ConfigError
from sidecars.cli.edge_check import Day, Folder, day_of
from sidecars.cli.report import report

POLL_SECONDS: Final = 0.2
"""How often `--watch` looks for changes: a build of one takes less."""


def build(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder for the files.", file_okay=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say which files of DIR a build would change.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Build again whenever a file of FOLDER changes, until Ctrl-C.")
    ] = False,
    day: Day = None,
) -> None:
    """Build policy, limits, log rules and Envoy's configuration from intent: the same bytes each time.

    Example: `sidecars edge build examples/edge --out built`

    DIR gets policy.json, limits.json and accesslog.json for the sidecars, envoy.json and envoy-files.json for
    an Envoy without a control plane, xds/*.json for xDS servers, and sovereign.json, a template context for
    Sovereign. Files that stay the same are not written again. With `--watch`, problems are printed and the
    files of the last build stay.

    Exit codes: 0 built; 1 the intent has problems, one a line, or `--check` found a difference; 2 bad usage.
    """
    from edge.build.build import Builder
    from edge.build.write import changed_files, write_files
    from edge.intent.estate import EstateReader
    from edge.intent.sources import read_folder
    from sidecars.cli.exit import WRONG

    if check and watch:
        raise typer.BadParameter("give one of --check and --watch", param_hint="--watch")
    reader, builder = EstateReader(folder), Builder()

    def built(texts: Mapping[str, str]) -> bool:
        """Build once and say so; return whether DIR had other files."""
        estate = reader.read(texts, day_of(day))
        files = builder.build(estate)
        changed = list(changed_files(files, out)) if check else write_files(files, out)
        said = "differs" if check and changed else "ok"
        routes = sum(len(service.routes) for service in estate.services)
        what = f"{routes} routes of {len(estate.services)} services, revision {files.revision}"
        verb = "would change" if check else "changed"
        typer.echo(f"{said}: {what}; {verb}: {', '.join(changed) or 'nothing'}")
        return bool(changed)

    if watch:
        _watch(folder, built)
        return
    try:
        changed = built(read_folder(folder))
    except ConfigError as error:
        report(error.problems)
    if check and changed:
        raise typer.Exit(WRONG)


def _watch(folder: Path, built: Callable[[Mapping[str, str]], bool]) -> None:
    """Call `built` with the texts of the folder, now and after each change, until Ctrl-C."""
    from edge.intent.sources import read_folder

    before: Mapping[str, str] | None = None
    said: list[str] = []
    try:
        while True:
            try:
                texts = read_folder(folder)
                if texts != before:
                    before, said = texts, []
                    built(texts)
            except ConfigError as error:
                # A file that is being written cannot be read for a moment: each list is printed once.
                if (problems := list(map(str, error.problems))) != said:
                    said = problems
                    typer.echo("\n".join(problems), err=True)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return
