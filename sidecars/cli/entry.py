"""The entry point of the command line: its errors, its exit codes."""

import errno
import os
import sys
from collections.abc import Sequence

import typer

from common.configfile import ConfigError
from common.os_errors import in_words
from common.redaction import REDACTED, looks_like_token
from common.redaction.tokens import without_jwts
from sidecars.cli.conflicts import ConflictError
from sidecars.cli.exit import OK, USAGE, WRONG
from sidecars.cli.printable import printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit. An expected failure is one line on stderr, not a traceback."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(_app_for(given))
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


def _app_for(arguments: Sequence[str]) -> typer.Typer:
    """Return the commands: only `run` if that is asked, because the others take 4 MB of a serving process."""
    if arguments and arguments[0] == "run":
        from sidecars.cli.run import app
    else:
        from sidecars.cli.app import app
    return app


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
