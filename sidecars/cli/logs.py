"""`sidecars logs`: the access log."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.configfile import ConfigError
from sidecars.cli import logs_audit, logs_schema
from sidecars.cli.exit import WRONG
from sidecars.cli.report import report

if TYPE_CHECKING:
    from sidecars.cli.logs_why import Why
    from sidecars.settings.root import Settings

app = typer.Typer(help="Read access logs.", no_args_is_help=True)
app.command("schema")(logs_schema.schema)
app.command("audit")(logs_audit.audit)

Files = Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Access log files.", exists=True)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The settings file, for its file sinks.", exists=True
    ),
]


@app.command()
def tail(
    files: Files = None,
    config: Config = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show so many lines first.")] = 10,
    follow: Annotated[bool, typer.Option(help="Go on with what is appended.")] = True,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            metavar="FIELD=VALUE",
            help="Only such records: =, !=, >, <, >=, <=; `*` is a wildcard; code=5xx. All must hold.",
        ),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only failed and refused requests.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only requests that authz refused.")] = False,
    limited: Annotated[bool, typer.Option("--limited", help="Only requests over a rate limit.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the lines unchanged.")] = False,
) -> None:
    """Show access log records as they are written, one line each, in colours on a terminal.

    Example: `sidecars logs tail -c sidecars.yaml --where code=5xx --where "duration_us>100000"`

    It follows the files, also over a rotation; a file that does not exist yet is waited for with --config.

    Exit codes: 0 done, or ended by Ctrl-C; 1 a file cannot be read; 2 bad usage.
    """
    from rich.console import Console

    from sidecars.cli import log_lines
    from sidecars.cli.log_files import Follower, files_of, last_lines, record_in
    from sidecars.cli.log_files import follow as followed

    filters = [log_lines.filter_of(text) for text in where or []]
    filters += [log_lines.is_error] * errors + [log_lines.is_denied] * denied
    filters += [log_lines.is_limited] * limited
    out = Console(highlight=False, soft_wrap=True)

    def show(line: bytes) -> None:
        record = record_in(line)
        if record is not None and all(one(record) for one in filters):
            if json:
                typer.echo(line)
            else:
                out.print(log_lines.line_of(record))

    settings = _settings(files, config)
    found = files_of(settings) if settings else files or []
    followers = [Follower(file) for file in found]
    try:
        for file, follower in zip(found, followers, strict=True):
            if file.exists():
                for line in last_lines(file, lines, follower.start):
                    show(line)
        for line in followed(followers) if follow else ():
            show(line)
    except KeyboardInterrupt:
        return
    finally:
        for follower in followers:
            follower.close()


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="SQL of DuckDB; the table is named `log`.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="JSON lines (also .gz and .zst), Parquet files, or folders of them.",
            exists=True,
        ),
    ] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
) -> None:
    """Ask access logs in SQL: every field of a record is a column, also if the first lines lack it.

    Example: `sidecars logs query "SELECT route, count(*) FROM log WHERE code >= 500 GROUP BY 1" access.jsonl`

    Needs the extra `logs` (DuckDB). With --config, rotated files are included.

    Exit codes: 0 done; 1 DuckDB refuses the SQL or a file; 2 bad usage.
    """
    from sidecars.cli.log_files import files_of, with_rotated
    from sidecars.cli.logs_query import query as run

    settings = _settings(files, config)
    found = files or []
    if settings is not None:
        found = with_rotated(files_of(settings))
        if not found:
            typer.echo("the file sinks have not written a file yet", err=True)
            raise typer.Exit(WRONG)
    run(sql, found, json=json)


@app.command()
def why(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="x-request-id, the stream id, or authz's decision id.")
    ],
    files: Files = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain one request: what authz and ratelimit decided and why, the upstream's answer, and its time.

    Example: `sidecars logs why 5f8a6c1e-2d3b-4c5d-8e9f-0a1b2c3d4e5f -c sidecars.yaml`

    It searches the files, newest first; with --config also rotated ones, authz's decision log, and the recent
    decisions of the running process. Log files and decision logs may be mixed.

    Exit codes: 0 found; 1 no file has the id; 2 bad usage.
    """
    from sidecars.cli.log_files import decision_logs, files_of, with_rotated
    from sidecars.cli.logs_why import find
    from sidecars.cli.logs_why_show import show

    settings = _settings(files, config)
    if settings is None:
        searched = decisions = files or []
    else:
        searched, decisions = with_rotated(files_of(settings)), with_rotated(decision_logs(settings))
    policy = settings.authz.policy if settings is not None and settings.authz is not None else ()
    found = find(identifier, searched, decisions, config, policy)
    if found is None:
        typer.echo(f"none of {len(searched)} files has a record with this id", err=True)
        typer.echo(
            "A successful request may be sampled out (sample.rate); its sidecar may write elsewhere.",
            err=True,
        )
        raise typer.Exit(WRONG)
    show(found if settings is None else _with_decision(found, settings), json=json)


def _with_decision(found: "Why", settings: "Settings") -> "Why":
    """Add what a running authz still knows of the decision, if no file has it."""
    decision_id = found.record.get("authz_decision_id")
    if found.decision or not decision_id:
        return found
    import asyncio
    from dataclasses import replace

    from sidecars.client.decisions import recent_decision

    decision = asyncio.run(recent_decision(settings, str(decision_id)))
    return found if decision is None else replace(found, decision=decision)


def _settings(files: list[Path] | None, config: Path | None) -> "Settings | None":
    """Return the settings in `config`; None if `files` are named instead. Raises BadParameter."""
    if bool(files) == (config is not None):
        raise typer.BadParameter("name either log files, or --config with a file sink")
    if config is None:
        return None
    from sidecars.settings.load import load_settings

    try:
        return load_settings(config, dict(os.environ))
    except ConfigError as error:
        report(error.problems)
