"""Reloading: in order, off the loop, and never from good to bad."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.configfile import ConfigError
from sidecars.observability.process_metrics import ReloadMetrics
from sidecars.process.reload import Reloader, ReloadOutcome
from sidecars.process.watch import FileBaseline, Snapshot, Watcher
from sidecars.services.sidecar import Sidecar
from sidecars.settings.process import ReloadSettings
from tests.support.probe import ProbeSidecar
from tests.support.waiting import until

WAIT_SECONDS = 20


class Reloading:
    def __init__(self, *sidecars: Sidecar, watch: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.announced: list[bool] = []
        settings = ReloadSettings(watch=watch, interval_seconds=0.05)
        before = {
            sidecar.name: FileBaseline.read(sidecar.watched_files, lambda: 1000.0) for sidecar in sidecars
        }
        self.reloader = Reloader(
            sidecars, before, settings, ReloadMetrics(self.registry), lambda: 1000.0, self.announced.append
        )

    def count(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"sidecar": "authz"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text("answer: one\n")
    return path


@pytest.fixture
def sidecar(file: Path) -> ProbeSidecar:
    return ProbeSidecar([file])


def write(file: Path, text: str) -> None:
    """Blocks for microseconds, which a test may."""
    file.write_text(text)


async def test_files_are_compiled_in_a_thread_and_swapped_on_the_loop(
    sidecar: ProbeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def prepare() -> Callable[[], None]:
        threads.append(threading.current_thread())
        return lambda: threads.append(threading.current_thread())

    monkeypatch.setattr(sidecar, "prepare", prepare)
    await Reloading(sidecar).reloader.reload(sidecar)
    compiled, swapped = threads
    assert compiled is not threading.main_thread()
    assert swapped is threading.main_thread()


async def test_a_refusal_keeps_every_problem_and_a_success_clears_them(
    sidecar: ProbeSidecar, file: Path
) -> None:
    reloading = Reloading(sidecar)
    await reloading.reloader.remember()
    write(file, "answer: []\nextra: 1\n")
    await reloading.reloader.reload(sidecar)
    assert sidecar.describe()["revision"] == "1"
    assert len(reloading.reloader.outcomes["authz"].problems) == 2
    assert reloading.count("sidecars_config_reload_failures_total") == 1
    assert reloading.count("sidecars_config_last_reload_failed") == 1
    write(file, "answer: two\nrevision: '2'\n")
    await reloading.reloader.reload(sidecar)
    assert reloading.reloader.outcomes["authz"] == ReloadOutcome(1000.0, revision="2")
    history = reloading.reloader.history("authz")
    assert [(bool(outcome.problems), outcome.revision) for outcome in history] == [(False, "2"), (True, "")]
    assert sidecar.describe()["revision"] == "2"
    assert reloading.count("sidecars_config_reload_total") == 2
    assert reloading.count("sidecars_config_reload_failures_total") == 1
    assert reloading.count("sidecars_config_last_reload_failed") == 0
    assert reloading.count("sidecars_config_loaded_timestamp_seconds") == 1000


async def test_a_loader_that_fails_in_any_way_changes_nothing(
    sidecar: ProbeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> Callable[[], None]:
        raise RecursionError("too deep")

    monkeypatch.setattr(sidecar, "prepare", prepare)
    reloading = Reloading(sidecar)
    await reloading.reloader.reload(sidecar)
    assert reloading.reloader.outcomes["authz"].problems == ("internal error: RecursionError: too deep",)
    assert reloading.count("sidecars_config_reload_failures_total") == 1


async def test_counters_are_there_before_the_first_reload(sidecar: ProbeSidecar) -> None:
    reloading = Reloading(sidecar)
    await reloading.reloader.remember()
    assert reloading.count("sidecars_config_reload_total") == 0
    assert reloading.count("sidecars_config_reload_failures_total") == 0
    assert reloading.count("sidecars_config_last_reload_failed") == 0


async def test_a_file_that_changed_between_reading_it_and_looking_at_it_is_read_again(
    sidecar: ProbeSidecar, file: Path
) -> None:
    reloading = Reloading(sidecar)
    write(file, "answer: two\nrevision: '2'\n")
    await reloading.reloader.remember()
    running = asyncio.create_task(reloading.reloader.run())
    await until(lambda: reloading.reloader.outcomes)
    running.cancel()
    assert sidecar.describe()["revision"] == "2"


async def test_what_did_not_change_since_it_was_read_is_not_read_again(
    sidecar: ProbeSidecar, file: Path
) -> None:
    reloading = Reloading(sidecar)
    await reloading.reloader.remember()
    assert not await reloading.reloader._changed(sidecar)


async def test_only_the_sidecar_whose_files_changed_is_reloaded(tmp_path: Path, file: Path) -> None:
    other_file = tmp_path / "b.yaml"
    write(other_file, "answer: one\n")
    first, other = ProbeSidecar([file]), ProbeSidecar([other_file])
    other.name = "ratelimit"
    reloading = Reloading(first, other)
    await reloading.reloader.remember()
    running = asyncio.create_task(reloading.reloader.run())
    write(other_file, "answer: two\n")
    await until(lambda: "ratelimit" in reloading.reloader.outcomes)
    running.cancel()
    assert "authz" not in reloading.reloader.outcomes
    assert reloading.announced[:1] == [True]


async def test_a_file_being_written_is_read_once_it_rests(
    sidecar: ProbeSidecar, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a policy may be valid YAML without its last rules."""
    monkeypatch.setattr("sidecars.process.reload.SETTLE_SECONDS", 0)
    more = [f"# rule {number}\n" for number in range(5)]

    class StillWritten(Watcher):
        def snapshot(self, paths: Iterable[Path]) -> Snapshot:
            seen = super().snapshot(paths)
            if more:
                write(file, file.read_text() + more.pop(0))
            return seen

    monkeypatch.setattr("sidecars.process.reload.Watcher", StillWritten)
    loaded: list[str] = []

    def prepare() -> Callable[[], None]:
        loaded.append(file.read_text())
        return lambda: None

    monkeypatch.setattr(sidecar, "prepare", prepare)
    await Reloading(sidecar).reloader.reload(sidecar)
    assert [text.splitlines()[-1] for text in loaded] == ["# rule 4"]
    assert not more


async def test_a_file_that_never_rests_is_read_all_the_same(
    sidecar: ProbeSidecar, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecars.process.reload.SETTLE_SECONDS", 0)

    class AlwaysWritten(Watcher):
        def snapshot(self, paths: Iterable[Path]) -> Snapshot:
            write(file, file.read_text() + "# more\n")
            return super().snapshot(paths)

    monkeypatch.setattr("sidecars.process.reload.Watcher", AlwaysWritten)
    reloading = Reloading(sidecar)
    await reloading.reloader.reload(sidecar)
    assert reloading.reloader.outcomes["authz"].problems == ()


async def test_without_watching_only_asking_reloads(sidecar: ProbeSidecar, file: Path) -> None:
    reloading = Reloading(sidecar, watch=False)
    await reloading.reloader.remember()
    running = asyncio.create_task(reloading.reloader.run())
    write(file, "answer: two\n")
    await asyncio.sleep(0.3)
    assert not reloading.reloader.outcomes
    reloading.reloader.request_reload()
    await until(lambda: reloading.reloader.outcomes)
    running.cancel()


async def test_a_sidecar_without_a_revision_has_no_revision_metric(
    sidecar: ProbeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "describe", dict)
    reloading = Reloading(sidecar)
    await reloading.reloader.remember()
    (metric,) = [
        metric for metric in reloading.registry.collect() if metric.name == "sidecars_config_revision_info"
    ]
    assert metric.samples == []


def test_the_outcome_reads_as_people_want_it() -> None:
    error = ConfigError.of("a.yaml", "is empty")
    outcome = ReloadOutcome(0.0, tuple(str(problem) for problem in error.problems))
    assert outcome.describe() == {
        "at": "1970-01-01T00:00:00+00:00",
        "ok": False,
        "problems": ["a.yaml: is empty"],
    }
