"""`sidecars demo`."""

from typing import Annotated

import typer


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit after the requests: 0 only if each did what it should.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where Envoy listens on 127.0.0.1; another if it is taken.")
    ] = 10000,
) -> None:
    """Show everything at work on this machine, behind a real Envoy.

    Starts an identity provider, an upstream, the three sidecars and Envoy, sends requests through them,
    and prints what each should do and did, and how to test, break and explain the policy that decided.
    Then everything stays up for you to try, until Ctrl-C.

    Example: `sidecars demo --once`

    Exit codes: 0 all did what it should; 1 something did not; 2 bad usage.
    """
    from sidecars.cli.conflicts import check_environment
    from sidecars.demo import run

    check_environment()
    raise typer.Exit(run(once=once, port=port))
