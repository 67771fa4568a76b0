"""The command line as a whole: its groups."""

import typer

from sidecars.cli import (
    bundle,
    config,
    demo,
    doctor,
    edge,
    limits,
    logs,
    policy,
    protoset,
    release,
    run,
    session,
    why,
)
from sidecars.cli.root import new_root

app = new_root()
app.command("run")(run.run)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("why")(why.why)
app.command("protoset")(protoset.protoset)
app.add_typer(config.app, name="config")
app.add_typer(policy.app, name="policy")
app.add_typer(limits.app, name="limits")
app.add_typer(logs.app, name="logs")
app.add_typer(bundle.app, name="bundle")
app.add_typer(edge.app, name="edge")
app.add_typer(release.app, name="release")
app.add_typer(session.app, name="session")
app.add_typer(session.token_app, name="token")


@app.command()
def version() -> None:
    """Print the version, and whether the modules of the request path are compiled."""
    from sidecars.observability.process_metrics import is_compiled, package_version

    typer.echo(f"{package_version()} (compiled)" if is_compiled() else package_version())
