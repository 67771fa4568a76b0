"""The console's process: it starts with the first page, is passed on to, and ends."""

import os
import signal
from pathlib import Path

import pytest

from sidecars.console import front
from sidecars.console.front import ConsoleFront
from tests.support.console import Suite
from tests.support.processes import children, has_ended

EVALUATION = "use=loaded&question=request%3A%20%7Burl%3A%20/reports%7D"


def test_it_starts_with_the_first_page_and_ends_with_the_sidecars(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        assert not children(running.process.pid)
        modules = running.folder / "maps"
        modules.write_text(Path(f"/proc/{running.process.pid}/maps").read_text())
        assert "_speedups" not in modules.read_text(), "MarkupSafe is loaded by the console alone"
        suite.page()
        [console] = children(running.process.pid)
        os.kill(console, signal.SIGKILL)
        running.wait_until(lambda: not children(running.process.pid))
        suite.page()  # another one is started
        [console] = children(running.process.pid)
        running.signal(signal.SIGTERM)
        assert running.wait_for_exit() == 0
    assert has_ended(console)


def test_it_gives_way_to_the_process_that_serves(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        suite.page()
        [console] = children(running.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, console) == 10
        if not Path("/proc/self/autogroup").exists():
            pytest.skip("the kernel does not group sessions")
        # The niceness orders processes of one session only, and these are of several.
        for process in (console, evaluator_of(suite, console)):
            assert Path(f"/proc/{process}/autogroup").read_text().split()[1:] == ["nice", "10"]


def test_it_ends_when_the_sidecars_are_killed(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        suite.page()
        [console] = children(running.process.pid)
        evaluator = evaluator_of(suite, console)
        folder = Path(Path(f"/proc/{console}/cmdline").read_text().split("\0")[-2]).parent
        running.process.kill()
        running.process.wait()
    assert has_ended(console)
    assert has_ended(evaluator)
    assert not folder.exists()


def test_its_evaluator_ends_when_both_are_killed(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    with suite.running as running:
        running.wait_until_ready()
        suite.page()
        [console] = children(running.process.pid)
        evaluator = evaluator_of(suite, console)
        running.process.kill()
        os.kill(console, signal.SIGKILL)
        running.process.wait()
    assert has_ended(evaluator)


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    suite = Suite(tmp_path, admin={"listen": "127.0.0.1:0", "port_file": "admin.port", "console": False})
    with suite.running as running:
        running.wait_until_ready()
        assert suite.ask("/console/")[0] == 404
        assert "console" not in suite.ask("/")[1]


def test_console_links_to_its_first_page(suite: Suite) -> None:
    status, _, headers = suite.ask("/console")
    assert (status, headers["Location"]) == (308, "/console/")
    assert 'href="/console/"' in suite.ask("/")[1]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_form_of_another_site_is_refused(suite: Suite, headers: dict[str, str]) -> None:
    assert suite.ask("/console/playground", "POST", "a=b", headers)[0] == 403


def test_a_large_form_is_refused(suite: Suite) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
    body = "policy=" + "a" * front.MAX_BODY_BYTES
    assert suite.ask("/console/playground", "POST", body, headers)[0] == 413


async def test_a_process_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    async def serve(_path: Path) -> None:
        pass

    console = ConsoleFront(serve, str(tmp_path), ("/bin/false",))
    with pytest.raises(OSError, match="did not start"):
        await console._running()
    await console.stop()
    assert not os.listdir(tmp_path)  # noqa: PTH208  # ruff takes a path for blocking


def evaluator_of(suite: Suite, console: int) -> int:
    """Return the process that evaluates policies, after an evaluation."""
    assert "credentials_missing" in suite.post("playground", EVALUATION).text
    [evaluator] = children(console)
    return evaluator
