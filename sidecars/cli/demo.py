"""`sidecars demo`."""

from typing import Annotated

import typer


def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="Exit after the requests, with 0 only if all results are as expected."),
    ] = False,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The port of Envoy on 127.0.0.1; another one if it is in use."),
    ] = 10000,
) -> None:
    """Demonstrate the sidecars on this machine, with a real Envoy.

    Starts an identity provider, an upstream, the three sidecars and Envoy, sends requests through them, and
    prints expected and actual results. Then everything keeps running until Ctrl-C: the last screen says what
    runs where, links to the console, and has three things to try.

    Example: `sidecars demo --once`

    Exit codes: 0 all results are as expected; 1 some are not; 2 bad usage.
    """
    from sidecars.cli.conflicts import check_environment
    from sidecars.demo import run

    check_environment()
    raise typer.Exit(run(once=once, port=port))
