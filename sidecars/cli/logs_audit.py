"""`sidecars logs audit`: whether a file of the access log holds a value that should be redacted."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sidecars.cli.exit import WRONG

if TYPE_CHECKING:  # else every command would load the settings and the records, 0.2 s
    from accesslog.records.redact import Redaction
    from accesslog.records.route_rules import RoutesRules

MOST_SHOWN: Final = 50


def audit(
    file: Annotated[Path, typer.Argument(help="A file of lines, also one compressed with gzip or zstd.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The settings whose redaction must hold.")
    ] = None,
) -> None:
    """Prove that an access log holds no value that should be redacted.

    Each line is redacted again, by the settings in the file or by the defaults: nothing may change. The
    command prints the line and the place of each finding, never its value.

    Example: `sidecars logs audit /var/log/sidecars/access.jsonl -c sidecars.yaml`

    Exit codes: 0 there is none; 1 there are some, or a line is not a record; 2 bad usage.
    """
    lines = found = 0
    for number, place in _found(file, *_redaction(config)):
        lines = number
        if place is None:
            continue
        found += 1
        if found <= MOST_SHOWN:
            typer.echo(f"{file}:{number}: {place or 'not a record'}")
    if found > MOST_SHOWN:
        typer.echo(f"... and {found - MOST_SHOWN} more")
    typer.echo(f"{lines} lines, {found} findings")
    if found:
        raise typer.Exit(WRONG)


def _found(
    file: Path, redaction: "Redaction", routes: "RoutesRules | None"
) -> Iterator[tuple[int, str | None]]:
    """Each line's number, with the place of each finding in it or once without one."""
    from accesslog.records.audit import findings
    from sidecars.cli.log_files import lines_of

    for number, line in enumerate(lines_of(file), 1):
        yield number, None
        try:
            yield from ((number, place) for place in findings(line, redaction, routes))
        except ValueError:
            yield number, ""


def _redaction(config: Path | None) -> "tuple[Redaction, RoutesRules | None]":
    from accesslog.records.redact import Redaction
    from sidecars.settings.load import load_settings

    if config is None:
        return Redaction(), None
    settings = load_settings(config, dict(os.environ))
    section, authz = settings.accesslog, settings.authz
    if section is None:
        raise typer.BadParameter(f"{config} has no section accesslog", param_hint="--config")
    from sidecars.services.accesslog import names_in_policy
    from sidecars.settings.route_rules import load_route_rules

    names, _ = names_in_policy(section.redact.policy or (() if authz is None else authz.policy))
    by_route = load_route_rules(section.route_rules, b"", masking=True)
    return section.redact.masking(names, by_route.redact), by_route.routes
