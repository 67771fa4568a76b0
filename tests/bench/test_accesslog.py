import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from bench.accesslog import GOALS
from bench.tools.accesslog_server import PATH
from bench.tools.instructions import VARIANTS
from bench.tools.load import LoadError
from bench.tools.log_decoder import decode, packed, unpacked
from bench.tools.log_entries import ENTRIES_A_MESSAGE, messages
from bench.tools.log_sender import LogSender
from bench.tools.processes import cpu_seconds, python_server
from sidecars.settings.accesslog import RedactSettings


def test_the_entries_have_the_size_that_the_goal_names() -> None:
    sent = messages(20)
    assert sum(map(len, sent)) / (20 * ENTRIES_A_MESSAGE) == pytest.approx(870, rel=0.02)


def test_messages_of_one_stream_can_be_made_in_parts() -> None:
    assert messages(2) + messages(3, first=2) == messages(5)


def test_every_entry_becomes_a_line_for_callgrind() -> None:
    sent = messages(3)
    assert unpacked(packed(sent)) == sent
    for order in VARIANTS.values():
        redact = RedactSettings.model_validate(order.get("redact", {}))
        assert decode(sent, redact, requests=order.get("requests", False)) == 3 * ENTRIES_A_MESSAGE


@pytest.mark.parametrize("module", ["bench.tools.accesslog_server", "bench.tools.plain_log_server"])
def test_what_the_sender_sends_is_written(module: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    with python_server(module, str(file)) as (process, port):
        cpu = cpu_seconds(process.pid)
        for _ in range(2):
            with LogSender(port, PATH) as sender:
                sender.send(messages(100))
                sender.finish()
        assert cpu_seconds(process.pid) > cpu
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    assert len(lines) == 200 * ENTRIES_A_MESSAGE


def test_a_server_that_refuses_the_stream_is_an_error(tmp_path: Path) -> None:
    with (
        python_server("bench.tools.accesslog_server", str(tmp_path / "lines")) as (_, port),
        LogSender(port, PATH) as sender,
        pytest.raises(LoadError),
    ):
        sender.send([b"\xff" * 1_000] * 10_000)


def test_the_cpu_time_of_a_process_is_what_it_says_itself() -> None:
    """A process of its own: threads of this one may have ended, and their time is not counted."""
    code = "import os, sys; sum(range(3_000_000)); print(sum(os.times()[:2]), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert cpu_seconds(process.pid) >= 0
        said = float(process.stdout.readline())
        assert said > 0
        assert cpu_seconds(process.pid) == pytest.approx(said, abs=0.2)
        process.communicate()


def test_the_goals_are_those_of_the_issue() -> None:
    assert {key: (goal.at_least, goal.at_most) for key, goal in GOALS.items()} == {
        "instructions_per_entry": (None, 132_000),
        "ratio_plain": (10, None),
        "envoy_dropped": (None, 0),
        "cpu_ratio_envoy": (None, 0.4),
        "memory_growth": (None, 0.1),
    }
