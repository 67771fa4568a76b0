"""`sidecars limits bans`: which keys are banned, and how a ban is lifted."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from common.configfile import ConfigError
from sidecars.cli.exit import WRONG
from sidecars.cli.report import report

if TYPE_CHECKING:  # else every command would load the settings
    from sidecars.settings.root import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The settings file of ratelimit.", exists=True),
]
Compat = Annotated[
    bool, typer.Option("--compat", help="The settings are the environment of envoyproxy/ratelimit.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(invoke_without_command=True)


@app.callback()
def bans(context: typer.Context, config: Config = None, compat: Compat = False, json: Json = False) -> None:
    """List the keys that a running ratelimit has banned, the newest first.

    Example: `sidecars limits bans -c sidecars.yaml`

    The command asks the process on the admin port of the settings. With `store: redis` it knows the bans of
    all sidecars.

    Exit codes: 0 listed; 1 the process does not answer; 2 bad usage.
    """
    if context.invoked_subcommand is not None:
        return
    found = _ask(config, "GET", "/limits/bans", compat=compat)
    if json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    for ban in found:
        typer.echo(f"{ban['id']}  until {_time(ban['until'])}  {ban['descriptor']}  ({ban['rule']})")
    if not found:
        typer.echo("no bans")


@app.command()
def lift(
    names: Annotated[
        list[str],
        typer.Argument(metavar="KEY", help="The id of a ban, or its descriptor, as the list shows them."),
    ],
    config: Config = None,
    compat: Compat = False,
) -> None:
    """Lift bans, at this process at once and at the others that share its Redis within a second.

    Example: `sidecars limits bans lift remote_address=192.0.2.1 -c sidecars.yaml`

    The command asks the admin port of the settings, which must be a unix socket or have `admin.token_file`.

    Exit codes: 0 lifted; 1 a key is not banned, or the process does not answer; 2 bad usage.
    """
    lifted = _ask(config, "POST", "/limits/bans/lift", compat=compat, json={"names": names})
    for ban in lifted:
        typer.echo(f"lifted {ban['id']}  {ban['descriptor']}  ({ban['rule']})")
    known = {name for ban in lifted for name in (ban["id"], ban["descriptor"])}
    missing = [name for name in names if name not in known]
    for name in missing:
        typer.echo(f"{name} is not banned", err=True)
    if missing:
        raise typer.Exit(WRONG)


def _ask(
    config: Path | None, method: str, path: str, *, compat: bool, **options: Any
) -> list[dict[str, Any]]:
    from sidecars.cli.limits_running import NotRunningError, settings_in
    from sidecars.settings.load import ENVIRONMENT

    if (config is None) is not compat:
        raise typer.BadParameter("give one of --config and --compat", param_hint="--config")
    try:
        settings = settings_in(ENVIRONMENT if config is None else config, dict(os.environ))
        return asyncio.run(_ask_workers(settings, method, path, **options))
    except ConfigError as error:
        report(error.problems)
    except NotRunningError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG) from None


async def _ask_workers(settings: "Settings", method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    """Return the bans that any worker names: without Redis, each has its own."""
    from sidecars.cli.limits_running import ask_running

    found: dict[str, dict[str, Any]] = {}
    for worker in range(settings.workers):
        for ban in await ask_running(settings, method, path, worker, **options):
            found.setdefault(ban["id"], ban)
    return sorted(found.values(), key=lambda ban: -ban["since"])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
