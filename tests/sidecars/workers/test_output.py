"""Whole lines of several writers on one pipe."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from sidecars.workers.output import MAX_LINE_BYTES, Output

LINES = 200
LINE_BYTES = 20_000
"""Above PIPE_BUF (4096), so that the kernel itself would tear them."""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) or 0 :]


def test_long_lines_of_several_writers_are_never_torn() -> None:
    reading, writing = os.pipe()
    output = Output(writing)
    text = [(letter * LINE_BYTES + b"\n") * LINES for letter in (b"a", b"b", b"c")]
    writers = [Thread(target=write_and_close, args=(output.pipe(i), text[i])) for i in range(3)]
    for writer in writers:
        writer.start()
    with os.fdopen(reading, "rb") as file:
        found = [file.readline() for _ in range(3 * LINES)]
    for writer in writers:
        writer.join()
    output.finish(10)
    os.close(writing)
    assert sorted(found) == sorted(b"".join(text).splitlines(keepends=True))


def test_half_a_line_of_a_killed_writer_is_dropped(target: int, tmp_path: Path) -> None:
    output = Output(target)
    write_and_close(output.pipe(0), b'{"whole": 1}\n{"ha')
    output.finish(10)
    assert (tmp_path / "out").read_bytes() == b'{"whole": 1}\n'


def test_what_has_no_newline_is_passed_on_at_a_bound(target: int, tmp_path: Path) -> None:
    output = Output(target)
    write_and_close(output.pipe(0), b"x" * (2 * MAX_LINE_BYTES) + b"\n")
    output.finish(10)
    assert (tmp_path / "out").read_bytes() == b"x" * (2 * MAX_LINE_BYTES) + b"\n"


def test_a_writer_learns_that_no_one_reads() -> None:
    """So that its sink counts what it loses (accesslog: broken_pipe)."""
    reading, writing = os.pipe()
    os.close(reading)
    output = Output(writing)
    with pytest.raises(BrokenPipeError):
        write_and_close(output.pipe(0), b"line\n" * 100_000)
    output.finish(10)
    os.close(writing)
