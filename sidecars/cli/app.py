"""The command line as a whole: its groups, its errors, its exit codes."""

import errno
import os
import sys
from collections.abc import Sequence

import typer

from common.configfile import ConfigError
from common.os_errors import in_words
from common.redaction import REDACTED, looks_like_token
from common.redaction.tokens import without_jwts
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
from sidecars.cli.conflicts import ConflictError
from sidecars.cli.exit import OK, USAGE, WRONG
from sidecars.cli.printable import printable

app = typer.Typer(
    name="sidecars",
    help="Three gRPC servers for Envoy: who may (authz), how much (ratelimit), what happened (accesslog).",
    epilog=(
        "Exit codes: 0 all is well; 1 something was found wrong or failed; "
        "2 bad usage, or a configuration that cannot be started with. To begin: `sidecars demo`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    """Print the version."""
    from sidecars.observability.process_metrics import package_version

    typer.echo(package_version())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit. An expected failure is one line on stderr, not a traceback."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = command.main(arguments, prog_name="sidecars", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "sidecars"
        text = _without_tokens(error.format_message().replace("Value error, ", ""), given)
        return _fail(f"{where}: {text} (see {where} --help)" if text else "", code=error.exit_code)
    except ConflictError as error:
        return _fail(f"sidecars: {error}", code=USAGE)
    except ConfigError as error:
        return _fail(*map(printable, error.problems), code=USAGE)
    except OSError as error:
        if error.errno == errno.EPIPE:
            # The reader of our output has gone, and Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return WRONG
        where = f"{_without_tokens(str(error.filename), given)}: " if error.filename else ""
        return _fail(f"sidecars: {where}{in_words(error)}", code=WRONG)
    except typer.Abort:
        return WRONG
    return code if isinstance(code, int) else OK


def _without_tokens(text: str, arguments: Sequence[str]) -> str:
    """`text` on one line, without arguments that look like a token: errors end up in logs and tickets."""
    for argument in arguments:
        for part in (argument, argument.partition("=")[2]):
            if "/" not in part and looks_like_token(part):
                text = text.replace(part, REDACTED)
    return " ".join(without_jwts(text, REDACTED).split())


def _fail(*lines: str, code: int) -> int:
    for line in filter(None, lines):
        typer.echo(line, err=True)
    return code
