"""`sidecars doctor`: checks a running suite."""

import asyncio
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer

from sidecars.cli.exit import OK, WRONG
from sidecars.cli.quiet import quiet

if TYPE_CHECKING:
    from sidecars.doctor.finding import Finding
    from sidecars.transport.api.address import Address

_COLOURS: Final = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    config: Annotated[
        list[Path],
        typer.Option(
            "--config",
            "-c",
            help="The settings file of a process that runs here; repeat it for several.",
            exists=True,
            dir_okay=False,
        ),
    ],
    envoy_admin: Annotated[
        str | None,
        typer.Option(
            "--envoy-admin",
            metavar="ADDRESS",
            help="Envoy's admin interface, as HOST:PORT or unix:PATH. Default: accesslog.envoy_admin.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Check a running suite and what it depends on: one line a check, with the fix.

    It asks each address for its gRPC health; the admin port for reloads, workers, sinks and key sets; Envoy
    for its clusters, filters, access logs and routes, and compares these with our advice; each Redis for its
    version, mode, eviction, latency and rights. It compares the clocks of Redis, Envoy and the key servers
    with that of this machine, and looks at the modes of secrets, sockets, spools and logs, and at the files
    of the installed packages. It changes nothing. Run it on the machine that serves, as the user that serves.

    Example: `sidecars doctor --config examples/sidecars.yaml --envoy-admin 127.0.0.1:9901`

    Exit codes: 0 nothing fails (warnings may be there); 1 a check fails; 2 bad usage, or a settings file that
    cannot be read.
    """
    address = _address(envoy_admin)
    with quiet():
        found = asyncio.run(_findings(config, address))
    if json:
        rows = [asdict(finding) for finding in found]
        typer.echo(orjson.dumps({"findings": rows}, option=orjson.OPT_INDENT_2))
    else:
        for finding in found:
            _print(finding)
        times = Counter(finding.level.value for finding in found)
        typer.echo(f"{times['ok']} ok, {times['warn']} warnings, {times['fail']} failures")
    return WRONG if any(finding.level == "fail" for finding in found) else OK


async def _findings(files: list[Path], envoy_admin: "Address | None") -> "list[Finding]":
    from sidecars.doctor.checks import findings
    from sidecars.settings.load import read_settings

    found: list[Finding] = []
    for file in files:
        found += [finding async for finding in findings(read_settings(file, os.environ), envoy_admin)]
    return list(dict.fromkeys(found))


def _address(text: str | None) -> "Address | None":
    from sidecars.transport.api.address import parse_address

    try:
        return None if text is None else parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _print(finding: "Finding") -> None:
    level = typer.style(f"{finding.level.value:<4}", fg=_COLOURS[finding.level.value])
    fix = f"; fix: {finding.fix}" if finding.fix else ""
    typer.echo(f"{level} {finding.check}: {finding.seen}{fix}")
