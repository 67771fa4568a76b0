import asyncio
import os
import threading

import pytest

from accesslog.records.counters import DropReason
from accesslog.sinks import stdout as stdout_module
from accesslog.sinks.sink import SinkError
from accesslog.sinks.stdout import StdoutSink


async def test_lines_are_written_to_the_descriptor_which_stays_open() -> None:
    reader, writer = os.pipe()
    sink = StdoutSink(descriptor=writer)
    await sink.write([b"one\n", b"two\n"])
    await sink.close()
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(writer)
    os.close(reader)


async def test_more_than_a_pipe_holds_is_written_while_the_loop_goes_on() -> None:
    """The event loop reads the other end itself: it would wait forever if the write blocked it."""
    reader, writer = os.pipe()
    sink = StdoutSink(descriptor=writer)
    lines = [b"x" * 99 + b"\n"] * 10_000
    writing = asyncio.create_task(sink.write(lines))
    read = bytearray()
    os.set_blocking(reader, False)
    async with asyncio.timeout(30):
        while len(read) < 1_000_000:
            try:
                read += os.read(reader, 65_536)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        await writing
    assert bytes(read) == b"".join(lines)
    await sink.close()
    os.close(reader)
    os.close(writer)


async def test_a_descriptor_that_another_process_made_non_blocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = StdoutSink(descriptor=writer)
    writing = asyncio.create_task(sink.write([b"x" * 200_000]))
    read = bytearray()
    os.set_blocking(reader, False)
    async with asyncio.timeout(30):
        while len(read) < 200_000:
            try:
                read += os.read(reader, 65_536)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        await writing
    await sink.close()
    os.close(reader)
    os.close(writer)


async def test_a_pipe_without_a_reader_is_an_error_that_no_retry_helps() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = StdoutSink(descriptor=writer)
    with pytest.raises(SinkError) as caught:
        await sink.write([b"one\n"])
    assert caught.value.reason is DropReason.BROKEN_PIPE
    assert not caught.value.retry
    await sink.close()
    os.close(writer)


async def test_a_batch_after_a_failure_begins_on_a_line_of_its_own() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    sink = StdoutSink(descriptor=full)
    with pytest.raises(SinkError) as caught:
        await sink.write([b"one\n"])
    assert caught.value.reason is DropReason.DISK_FULL
    os.dup2(writer, full)
    await sink.write([b"one\n"])
    await sink.write([b"two\n"])
    assert os.read(reader, 100) == b"\none\ntwo\n"
    await sink.close()
    for descriptor in (full, reader, writer):
        os.close(descriptor)


async def test_closing_returns_even_if_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdout_module, "CLOSE_SECONDS", 0.01)
    reader, writer = os.pipe()
    sink = StdoutSink(descriptor=writer)
    writing = asyncio.create_task(sink.write([b"x" * 1_000_000]))
    await asyncio.sleep(0)
    await sink.close()
    assert not writing.done()
    thread = next(thread for thread in threading.enumerate() if thread.name == "accesslog stdout")
    assert thread.daemon
    left = 1_000_000
    while left:  # not until `writing` is done: its end is noticed after the last byte
        left -= len(os.read(reader, 65_536))
    await writing
    os.close(reader)
    os.close(writer)


async def test_a_pipe_is_known_to_have_a_reader_or_not() -> None:
    reading, writing = os.pipe()
    sink = StdoutSink(descriptor=writing)
    await sink.check()
    os.close(reading)
    with pytest.raises(SinkError) as caught:
        await sink.check()
    assert caught.value.reason is DropReason.BROKEN_PIPE
    await sink.close()
    os.close(writing)
