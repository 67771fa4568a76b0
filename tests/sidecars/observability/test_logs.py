"""The process's log: structlog and the standard library, as lines that never hold up the loop."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sidecars.observability import logs
from sidecars.observability.logs import Logs
from sidecars.settings.process import LogSettings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Recorded:
    def __init__(self, **settings: Any) -> None:
        self.stream = io.StringIO()
        self.logs = Logs(LogSettings(**settings), self.stream)

    def text(self) -> str:
        self.logs.stop()
        return self.stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def test_a_line_is_one_json_object_with_its_fields() -> None:
    recorded = Recorded()
    structlog.get_logger("sidecars.authz").info("policy loaded", revision="abc", rules=3)
    (line,) = recorded.lines()
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "event": "policy loaded",
        "level": "info",
        "logger": "sidecars.authz",
        "revision": "abc",
        "rules": 3,
    }


def test_loggers_of_the_standard_library_go_the_same_way() -> None:
    recorded = Recorded()
    logging.getLogger("aiohttp.server").warning("%d bytes", 5)
    (line,) = recorded.lines()
    assert (line["event"], line["level"], line["logger"]) == ("5 bytes", "warning", "aiohttp.server")


@pytest.mark.parametrize("level", ["warning", "error"])
def test_lines_below_the_level_are_not_written(level: str) -> None:
    recorded = Recorded(level=level)
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.get_logger("a").error("loud")
    assert [line["event"] for line in recorded.lines()] == ["loud"]


def test_the_console_format_is_for_people() -> None:
    recorded = Recorded(format="console")
    structlog.get_logger("a").info("listening", address="unix:/a")
    text = recorded.text()
    assert "listening" in text
    assert "address=unix:/a" in text
    assert "\x1b" not in text  # no colours in a file


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_logged_without_local_variables(form: str) -> None:
    """They hold tokens."""
    recorded = Recorded(format=form)
    secret = "hunter" + "2"
    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger("a").exception("failed")
        logging.getLogger("b").exception("failed")
    text = recorded.text()
    assert text.count("ValueError: 7") == 2
    assert "hunter2" not in text


def test_a_value_json_does_not_know_is_written_as_text() -> None:
    recorded = Recorded()
    structlog.get_logger("a").info("x", error=ValueError("why"), keys={1: "one"})
    (line,) = recorded.lines()
    assert (line["error"], line["keys"]) == ("why", {"1": "one"})


class Stalled(io.StringIO):
    """A stderr whose reader waits for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.reached = threading.Event()

    def idle(self, after: int) -> bool:
        """Whether so many lines get written in time."""
        for _ in range(3000):
            if self.getvalue().count("\n") == after:
                return True
            time.sleep(0.01)
        return False

    def write(self, text: str) -> int:
        self.reached.set()
        self.go.wait(30)
        return super().write(text)


def test_while_no_one_reads_stderr_lines_are_dropped_and_counted_and_no_one_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 10)
    stream = Stalled()
    recorded = Logs(LogSettings(), stream)
    log = structlog.get_logger("a")
    log.info("the one being written")
    assert stream.reached.wait(30)
    for number in range(15):
        log.info("line", number=number)
    stream.go.set()
    recorded.stop()
    assert len(stream.getvalue().splitlines()) == 11


def test_the_log_tells_of_its_gap_once_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 2)
    stream = Stalled()
    recorded = Logs(LogSettings(), stream)
    log = structlog.get_logger("a")
    log.info("1")
    assert stream.reached.wait(30)
    for number in range(2, 6):
        log.info(str(number))
    stream.go.set()
    assert stream.idle(after=3)
    log.info("6")
    recorded.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["1", "2", "3", "6", "log lines were dropped"]
    assert [line["lines"] for line in lines if "lines" in line] == [2]
