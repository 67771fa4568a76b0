"""Fuzzing of the sans-IO connection: `python -m tests.fuzz.transport --seconds 3600`.

An input is a small program, not the bytes on the wire: its bytes select frames, streams, header blocks,
floods, chunk sizes, steps of the clock and handlers. So nearly every input gets past the preface, and a
mutation changes the behaviour of the peer instead of making the rest invalid. The target checks the bounds
after each step, and at the end that nothing is left over.

If `atheris` is installed (the extra `fuzz`), coverage guides the mutations. Findings are written to the
corpus folder, whose files the test suite replays.
"""

import argparse
import hashlib
import importlib.util
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sidecars.transport.api.limits import Lifetime, Limits, Rate
from sidecars.transport.http2 import frames
from tests.support.transport.wire import (
    NO_TABLE,
    OPENING,
    Bench,
    block,
    frame,
    message,
    parse,
    request,
    request_fields,
)

CORPUS = Path(__file__).parent / "corpus" / "transport"

MAX_INPUT_BYTES = 4096
HANG_SECONDS = 5
"""The most seconds for one input: a thousand times the duration of a long one."""

MOST_HEADER_BYTES = 12_000

LIMITS = Limits(
    max_concurrent_streams=8,
    max_message_bytes=4096,
    max_held_bytes=16_384,
    max_unsent_bytes=65_536,
    resets=Rate(50, 10.0),
    pings=Rate(30, 10.0),
    settings=Rate(20, 5.0),
    empty_frames=Rate(30, 10.0),
    idle_frames=Rate(60, 10.0),
    window_updates=Rate(60, 10.0),
    settings_parameters=2,
    max_open_header_bytes=MOST_HEADER_BYTES,
    inflated_bytes=Rate(32_768, 1024.0),
    max_bytes_per_turn=16_384,
)
"""Small, so that an input of a few bytes reaches every limit."""

LIFETIME = Lifetime(keepalive_seconds=20.0, keepalive_timeout_seconds=10.0)

BLOCKS = (
    *(
        request(path)
        for path in ("/p/Echo", "/p/Join", "/p/Split", "/p/Shout", "/p/Later", "/p/Refuse", "/p/Nope")
    ),
    request("/p/Echo", ("grpc-encoding", "gzip")),
    request("/p/Join", ("grpc-encoding", "gzip"), ("grpc-timeout", "1m")),
    request("/p/Echo", ("content-length", "6")),
    request("/p/Echo", ("x-bin", "AAEC"), ("y-bin", "!")),
    request("/p/Echo", ("x-pad", "%" * 3000)),
    block(*request_fields("/p/Echo")[1:]),
    block(*request_fields("/p/Echo", ("connection", "close"))),
    block(("x-trailer", "1")),
    b"\x40\x01a\x01b" * 3,  # enters the dynamic table
    b"\xbe" * 40,  # and is then referenced repeatedly
    b"\x3f\xe1\x1f",  # the table at its full size
)


class Program:
    """The bytes of an input, read from the front, followed by zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


class Player:
    """Runs a program against a connection, and checks the connection after every step."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.bench = Bench(LIMITS)
        self.wire = b""
        self.received = 0
        self.sent = b""
        self.next_stream = 1

    def play(self) -> None:
        first = self.program.byte()
        self.wire = self.program.take(first % 32) if first >= 0xF0 else OPENING
        while not self.program.over and not self.bench.connection.over:
            self.step()
            self.check_bounds()
        self.deliver()
        self.finish()

    def step(self) -> None:
        kind = self.program.byte() % 20
        if kind < 12:
            self.wire += self.a_frame(kind)
        elif kind == 12:
            self.wire += self.a_call()
        elif kind == 13:
            self.wire += self.program.take(self.program.byte() % 64)
        elif kind == 14:
            self.deliver()
        elif kind == 15:
            self.deliver()
            self.sent += self.bench.run()
        elif kind == 16:
            self.bench.now += self.program.byte() / 4
            self.bench.connection.tick(self.bench.now, LIFETIME)
            self.sent += self.bench.connection.take()
        elif kind == 17:
            self.wire += self.a_frame(self.program.byte() % 12) * self.program.byte()
        elif kind == 18:
            self.bench.connection.drain(self.bench.now)
            self.sent += self.bench.connection.take()
        else:
            self.wire = self.wire[: len(self.wire) - self.program.byte() % 16]

    def deliver(self) -> None:
        self.received += len(self.wire)
        self.sent += self.bench.feed(self.wire)
        self.wire = b""

    def stream(self) -> int:
        choice = self.program.byte()
        if choice < 96:
            self.next_stream += 2
            return self.next_stream - 2
        if choice < 224:
            return max(1, self.next_stream - 2 - choice % 8)
        return (0, 2, 2**31 - 1, 2**31, self.next_stream + 10)[choice % 5]

    def a_frame(self, kind: int) -> bytes:
        program = self.program
        flags = (
            program.byte()
            if program.byte() & 1
            else (0, frames.END_STREAM, frames.END_HEADERS, 5)[program.byte() % 4]
        )
        stream_id = (
            self.stream()
            if kind not in {frames.SETTINGS, frames.PING, frames.GOAWAY}
            else program.byte() // 250
        )
        return frame(kind, flags, stream_id, self.a_payload(kind))

    def a_payload(self, kind: int) -> bytes:
        program = self.program
        shape = program.byte()
        if shape >= 0xE0:
            return program.take(shape % 32)
        if kind == frames.HEADERS and shape >= 0xD0:
            return self.a_traced_block(shape % 16)
        if kind in {frames.HEADERS, frames.CONTINUATION}:
            encoded = BLOCKS[shape % len(BLOCKS)]
            return NO_TABLE + encoded if program.byte() & 1 else encoded
        if kind == frames.DATA:
            body = message(bytes(program.byte() * shape % 6000), flag=program.byte() % 2)
            return body[: len(body) - program.byte() % 8]
        if kind == frames.SETTINGS:
            pairs = (program.byte() % 8, program.byte(), program.byte())
            return pairs[0].to_bytes(2, "big") + bytes([pairs[1] // 2, 0, pairs[2], pairs[1]])
        if kind in {frames.WINDOW_UPDATE, frames.RST_STREAM}:
            return (program.byte() << (shape % 25)).to_bytes(4, "big")
        return bytes(8 if kind == frames.PING else 5 if kind == frames.PRIORITY else shape % 20)

    def a_traced_block(self, size: int) -> bytes:
        """One of the blocks that differ only in a value, which may be Huffman code."""
        huffman = self.program.byte() & 0x80
        return request("/p/Echo") + b"\x00\x0btraceparent" + bytes([huffman | size]) + self.program.take(size)

    def a_call(self) -> bytes:
        stream_id, self.next_stream = self.next_stream, self.next_stream + 2
        encoded = NO_TABLE + BLOCKS[self.program.byte() % 8]
        body = message(self.program.take(self.program.byte() % 24))
        return frame(frames.HEADERS, frames.END_HEADERS, stream_id, encoded) + frame(
            frames.DATA, frames.END_STREAM, stream_id, body
        )

    def check_bounds(self) -> None:
        streams = self.bench.connection.streams
        assert len(streams.table) <= LIMITS.max_concurrent_streams
        kept = sum(stream.request.memory_bytes for stream in streams.table.values())
        assert streams.stream_table.header_bytes == kept
        assert streams.stream_table.most == (
            LIMITS.max_concurrent_streams if kept <= MOST_HEADER_BYTES else 0
        )
        largest = LIMITS.max_message_bytes + frames.MAX_FRAME_BYTES + 5
        assert 0 <= streams.receive_flow.held_bytes <= LIMITS.max_held_bytes + LIMITS.connection_window_bytes
        assert 0 <= streams.receive_flow.unread_bytes <= LIMITS.connection_window_bytes + largest
        assert (
            0 <= streams.send_queue.unsent_bytes <= LIMITS.max_unsent_bytes + LIMITS.connection_window_bytes
        )
        # The bytes that a peer gets for each byte it sends: floods are answered, but not amplified.
        assert len(self.sent) <= 65_536 + 64 * (self.received + 1)

    def finish(self) -> None:
        """End everything in flight, and check that nothing is left over."""
        self.sent += self.bench.run()
        connection = self.bench.connection
        self.bench.now += 10_000
        connection.tick(self.bench.now, LIFETIME)
        self.sent += connection.take()
        connection.lost()
        streams = connection.streams
        assert not streams.table
        assert streams.stream_table.header_bytes == 0
        assert streams.receive_flow.held_bytes == 0
        assert streams.receive_flow.unread_bytes == 0
        assert streams.send_queue.unsent_bytes == 0
        rows = parse(self.sent)
        goaways = [row for row in rows if row[0] == frames.GOAWAY]
        assert connection.fault is None or goaways


def check(data: bytes) -> None:
    """Run one input. Raises the first error."""
    began = time.monotonic()
    Player(Program(data[:MAX_INPUT_BYTES])).play()
    assert time.monotonic() - began < HANG_SECONDS, "an input that takes seconds"


def corpus() -> list[Path]:
    return sorted(path for path in CORPUS.iterdir() if path.is_file())


def keep(data: bytes, why: str) -> Path:
    path = CORPUS / f"{why}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def mutate(parent: bytes, other: bytes, dice: random.Random) -> bytes:
    data = bytearray(parent)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at:at] = dice.randbytes(dice.randint(1, 8))
            case 1:
                del data[at : at + dice.randint(1, 8)]
            case 2:
                data[at : at + 1] = dice.randbytes(1)
            case 3:
                cut = dice.randrange(len(other) + 1)
                data[at:at] = other[cut : cut + dice.randint(1, 64)]
            case _:
                data[at:at] = data[at : at + dice.randint(1, 32)]
    return bytes(data[:MAX_INPUT_BYTES])


def fuzz_blindly(seconds: float, seed: int) -> int:
    """Mutate inputs without coverage guidance; return the exit code."""
    dice = random.Random(seed)
    seeds = [path.read_bytes() for path in corpus()] or [b"\x00"]
    until, inputs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = mutate(dice.choice(seeds), dice.choice(seeds), dice)
        inputs += 1
        try:
            check(data)
        except Exception:
            traceback.print_exc()
            sys.stdout.write(f"kept as {keep(data, 'crash')}, seed {seed}, input {inputs}\n")
            return 1
        if dice.random() < 0.001:
            seeds.append(data)
    sys.stdout.write(f"{inputs} inputs without a finding, seed {seed}\n")
    return 0


def fuzz_guided(seconds: float, found: Path) -> None:
    """Run atheris (libFuzzer) with coverage guidance; it exits the process. Crashes go to the corpus."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    ours = ("sidecars.transport", "hpack", "tests.sidecars.transport")
    with atheris.instrument_imports(include=["sidecars.transport", "hpack"]):
        for name in [name for name in sys.modules if name.startswith(ours)]:
            del sys.modules[name]
        target = importlib.import_module("tests.fuzz.transport")
    arguments = [
        *(
            "transport",
            str(found),
            str(CORPUS),
            f"-max_total_time={seconds:.0f}",
            f"-max_len={MAX_INPUT_BYTES}",
        ),
        *(f"-timeout={HANG_SECONDS}", "-rss_limit_mb=1024", f"-artifact_prefix={CORPUS}/"),
    ]
    atheris.Setup(arguments, target.check)
    atheris.Fuzz()


def lines_of(data: bytes) -> set[tuple[str, int, int]]:
    """Return the pairs of consecutive lines that ran in the transport for the input `data`."""
    seen: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if "sidecars/transport/" not in name or "tests/" in name:
            return None
        before = frame.f_lineno

        def step(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal before
            seen.add((name, before, frame.f_lineno))
            before = frame.f_lineno
            return step

        return step

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return seen


def merge(found: Path) -> int:
    """Copy to the corpus, smallest first, each input of `found` that reaches new code."""
    covered = set().union(*(lines_of(path.read_bytes()) for path in corpus()))
    added = 0
    for data in sorted((path.read_bytes() for path in found.iterdir()), key=len):
        new = lines_of(data) - covered
        if new:
            covered |= new
            added += 1
            keep(data, "path")
    sys.stdout.write(f"{added} inputs added, {len(covered)} steps from line to line covered\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the HTTP/2 connection.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: a minute)")
    parser.add_argument("--seed", type=int, default=None, help="of the blind mutations")
    parser.add_argument("--blind", action="store_true", help="do not use atheris, though it is installed")
    parser.add_argument(
        "--found",
        type=Path,
        default=Path(".cache/fuzz/transport"),
        help="where atheris keeps inputs of new coverage",
    )
    parser.add_argument("--merge", action="store_true", help="copy to the corpus what goes new ways, and end")
    choice = parser.parse_args()
    choice.found.mkdir(parents=True, exist_ok=True)
    if choice.merge:
        return merge(choice.found)
    if importlib.util.find_spec("atheris") is not None and not choice.blind:
        fuzz_guided(choice.seconds, choice.found)
    seed = choice.seed if choice.seed is not None else random.SystemRandom().randrange(2**32)
    return fuzz_blindly(choice.seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
