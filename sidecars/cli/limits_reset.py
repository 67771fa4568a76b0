"""`sidecars limits reset`: gives a key its whole limit back."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.configfile import ConfigError
from sidecars.cli.report import report

if TYPE_CHECKING:  # loaded by the command
    from sidecars.settings.root import Settings


def reset(
    descriptors: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE,...", help="The descriptors, each with its entries.")
    ],
    domain: Annotated[str, typer.Option(help="The domain of Envoy's ratelimit filter.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The settings file of ratelimit.", exists=True),
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="The settings are the environment of envoyproxy/ratelimit.")
    ] = False,
) -> None:
    """Give keys their whole limit back, in a running process and its store.

    Example: `sidecars limits reset -c sidecars.yaml --domain edge remote_address=192.0.2.1`

    The command asks the admin port of the settings, which must be a unix socket or have `admin.token_file`.
    The process logs each key.

    Exit codes: 0 reset; 1 no limit applies, or the process does not answer or refuses; 2 bad usage.
    """
    from sidecars.cli.exit import WRONG
    from sidecars.cli.limits_running import NotRunningError, settings_in
    from sidecars.settings.load import ENVIRONMENT

    if (config is not None) == compat:
        raise typer.BadParameter("give one of --config and --compat", param_hint="--config")
    try:
        settings = settings_in(ENVIRONMENT if config is None else config, dict(os.environ))
        found = asyncio.run(_ask(settings, domain, descriptors))
    except ConfigError as error:
        report(error.problems)
    except NotRunningError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG) from None
    for one in found:
        typer.echo(f"reset {one['descriptor']}  ({one['rule']}): {one['remaining']:,} left")
    if not found:
        typer.echo("no limit that counts applies to it: see sidecars limits explain", err=True)
        raise typer.Exit(WRONG)


async def _ask(settings: "Settings", domain: str, descriptors: Sequence[str]) -> list[dict[str, Any]]:
    """Ask each worker, since each has a deny cache; return the answer of the first."""
    from sidecars.cli.limits_running import ask_running

    question = {"domain": domain, "descriptors": list(descriptors)}
    answers = [
        await ask_running(settings, "POST", "/limits/reset", worker, json=question)
        for worker in range(settings.workers)
    ]
    return list(answers[0])
