"""Evaluations run in children of a fork server, which harm neither it nor each other."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from textwrap import indent
from typing import Any

import pytest

from sidecars.console.sandbox import MAX_PROCESSES, Sandbox
from tests.support.processes import children, is_running

SERVER = """
import json, os, sys, time
from pathlib import Path
from sidecars.console.fork_server import serve
from sidecars.console.priority import give_way
give_way()

def work():
    asked = json.load(sys.stdin)
{program}

serve(work)
"""
FIRST = {"policy": "first"}


@asynccontextmanager
async def sandbox_of(program: str, seconds: float = 60) -> AsyncIterator[Sandbox]:
    """A sandbox whose children run `program`, which has the question as `asked`."""
    # On a busy machine the start alone may take many seconds.
    server = SERVER.format(program=indent(program, "    "))
    sandbox = Sandbox((sys.executable, "-c", server), seconds)
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def found_by(program: str, **asked: Any) -> dict[str, Any]:
    async with sandbox_of(program) as sandbox:
        return await sandbox.evaluate(asked)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not become true")


OWN = "print(json.dumps({'own': os.getpid(), 'server': os.getppid()}), flush=True)\n"


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("x = bytes(1 << 30)", "it may need more memory"),
        ("x = []\nwhile True: x.append(bytes(1 << 20))", "it may need more memory"),
        ("os.write(1, b'1' * (5 << 20))", "more than 4 MiB"),
        ("print('{')", "without an answer"),
        ("print('[1]')", "without an answer"),
        ("os.write(1, bytes(range(256)))", "without an answer"),
        ("os._exit(0)", "without an answer"),
        ("os.kill(os.getpid(), 9)", "more memory than it may"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass", "CPU time"),
        ("raise SystemExit", "without an answer"),
    ],
)
async def test_caps_hold_and_harm_no_other_evaluation(program: str, failure: str) -> None:
    """The same server answers the next question."""
    program = f"if 'policy' in asked:\n{indent(program, ' ')}\nelse:\n {OWN}"
    async with sandbox_of(program) as sandbox:
        before = await sandbox.evaluate({})
        assert failure in (await sandbox.evaluate(FIRST))["failure"]
        after = await sandbox.evaluate({})
        assert after["server"] == before["server"]
        assert after["own"] != before["own"]


async def test_an_evaluation_that_takes_long_ends_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    os.mkfifo(file)  # a regular file could not be written
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    program = (
        "if 'policy' in asked:\n"
        f" pid = os.fork() or os.getpid()\n os.write(os.open({str(file)!r}, os.O_WRONLY), b'%d ' % pid)\n"
        " while True: time.sleep(1)\n"
        f"else:\n {OWN}"
    )
    try:
        async with sandbox_of(program) as sandbox:
            await sandbox.evaluate({})
            sandbox._seconds = 2  # the server runs
            assert await sandbox.evaluate(FIRST) == {"failure": "it takes longer than 2 seconds"}
            pids = [int(pid) for pid in os.read(reader, 4096).split()]
            assert pids
            await until(lambda: not any(map(is_running, pids)))
            sandbox._seconds = 60
            assert "own" in await sandbox.evaluate({})
    finally:
        os.close(reader)


async def test_a_server_that_was_killed_is_started_again() -> None:
    async with sandbox_of(OWN) as sandbox:
        before = await sandbox.evaluate({})
        os.kill(before["server"], SIGKILL)  # at once, so the sandbox does not know yet
        after = await sandbox.evaluate({})
        assert "own" in after
        assert after["server"] != before["server"]
        os.kill(after["server"], SIGKILL)
        await until(lambda: not is_running(after["server"]))
        assert "own" in await sandbox.evaluate({})


async def test_an_evaluation_ends_with_its_server() -> None:
    program = f"if 'policy' in asked:\n {indent(OWN, ' ').strip()}\n time.sleep(600)\nelse:\n {OWN}"
    async with sandbox_of(program) as sandbox:
        server = (await sandbox.evaluate({}))["server"]
        evaluation = asyncio.create_task(sandbox.evaluate(FIRST))
        await until(lambda: bool(children(server)))
        [child] = children(server)
        os.kill(server, SIGKILL)
        assert await evaluation == {"failure": "the process that evaluates has ended; try again"}
        await until(lambda: not is_running(child))


async def test_a_server_that_hangs_is_replaced() -> None:
    async with sandbox_of(OWN) as sandbox:
        server = (await sandbox.evaluate({}))["server"]
        assert sandbox._server is not None
        object.__setattr__(sandbox._server, "ready_by", 0.0)  # its start was long ago
        os.kill(server, SIGSTOP)
        sandbox._seconds = 1
        assert "longer than 1 second" in (await sandbox.evaluate({}))["failure"]
        sandbox._seconds = 60
        assert (await sandbox.evaluate({}))["server"] != server
        assert not is_running(server)


async def test_a_server_that_does_not_start_is_said() -> None:
    sandbox = Sandbox((sys.executable, "-c", "raise SystemExit(1)"))
    assert "does not start" in (await sandbox.evaluate({}))["failure"]
    await sandbox.close()


async def test_evaluations_run_at_the_same_time_and_wait_for_each_other() -> None:
    async with sandbox_of(f"time.sleep(0.2)\n{OWN}") as sandbox:
        found = await asyncio.gather(*(sandbox.evaluate({}) for _ in range(3 * MAX_PROCESSES)))
        assert len({one["own"] for one in found}) == 3 * MAX_PROCESSES
        assert len({one["server"] for one in found}) == 1


async def test_nothing_of_an_evaluation_is_seen_by_the_next() -> None:
    program = (
        "sys.seen = getattr(sys, 'seen', 0) + 1\n"
        "fds = sorted(map(int, os.listdir('/proc/self/fd')))\n"
        "print(json.dumps({'seen': sys.seen, 'fds': fds}))"
    )
    async with sandbox_of(program) as sandbox:
        for _ in range(3):
            # 3 is the folder that is listed.
            assert await sandbox.evaluate({}) == {"seen": 1, "fds": [0, 1, 2, 3]}


async def test_an_evaluation_can_write_no_file(tmp_path: Path) -> None:
    file = tmp_path / "written"
    found = await found_by(f"open({str(file)!r}, 'w').write('x')")
    assert "without an answer" in found["failure"]
    assert file.read_bytes() == b""


async def test_an_evaluation_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    found = await found_by("print(json.dumps(dict(os.environ)))")
    assert "LANG" in found
    assert "A_SECRET" not in found


async def test_an_evaluation_is_the_first_to_end_where_memory_is_short() -> None:
    program = "print(json.dumps(dict(own=Path('/proc/self/oom_score_adj').read_text())))"
    assert await found_by(program) == {"own": "1000\n"}


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel does not group sessions")
async def test_an_evaluation_gives_way_to_processes_of_other_sessions() -> None:
    program = (
        "print(json.dumps({'group': Path('/proc/self/autogroup').read_text(),"
        " 'nice': os.getpriority(os.PRIO_PROCESS, 0)}))"
    )
    found = await found_by(program)
    assert found["group"].split()[1:] == ["nice", "10"]
    assert found["nice"] == 10


async def test_a_large_policy_is_evaluated(tmp_path: Path) -> None:
    sandbox = Sandbox()
    rules = "".join(
        f"  - {{name: r{number}, paths: [/s{number}/orders], allow: anyone}}\n" for number in range(3_000)
    )
    file = tmp_path / "policy.yaml"
    file.write_text(f"rules:\n{rules}")
    found = await sandbox.evaluate({"files": [str(file)], "question": "request: {url: /s7/orders}"})
    await sandbox.close()
    assert (found["rules"], found["question"]["rule"]) == (3_000, "r7")
    assert len(found["question"]["others"]) + found["question"]["more"] == 2_999
