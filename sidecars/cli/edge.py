"""`sidecars edge`: what teams want at the edge, and what is built from it."""

import typer

from sidecars.cli import edge_build, edge_check, edge_diff, edge_explain

app = typer.Typer(help="Work with the intent of teams.", no_args_is_help=True)
app.command("check")(edge_check.check)
app.command("diff")(edge_diff.diff)
app.command("explain")(edge_explain.explain)
app.command("build")(edge_build.build)
app.command("schema")(edge_check.schema)
