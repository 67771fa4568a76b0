"""The sidecars command, called in this process."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from sidecars.cli import main


class Result:
    """The exit code and the output of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Command:
    """Calls the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, out, err)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def command(config: Path, *arguments: str, stdin: str = "") -> Done:
    """`sidecars ARGUMENTS --config CONFIG`, in this process."""
    return plain_command(*arguments, "--config", str(config), stdin=stdin)


def plain_command(*arguments: str, stdin: str = "") -> Done:
    """`sidecars ARGUMENTS`, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        pytest.raises(SystemExit) as ended,
    ):
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return Done(ended.value.code, *texts)
