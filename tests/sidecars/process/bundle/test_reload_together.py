"""Several sidecars change together, or none does."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sidecars.observability.process_metrics import ReloadMetrics
from sidecars.process.reload import Reloader
from sidecars.process.watch import FileBaseline
from sidecars.settings.process import ReloadSettings
from tests.support.probe import ProbeSidecar


class Other(ProbeSidecar):
    name = "ratelimit"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("answer: one\n")
    return tmp_path / "a.yaml", tmp_path / "b.yaml"


@pytest.mark.parametrize("second", ["answer: two\nrevision: '2'\n", "answer: []\n"])
async def test_all_swap_or_none(files: tuple[Path, Path], second: str) -> None:
    sidecars = (ProbeSidecar(files[:1]), Other(files[1:]))
    before = {one.name: FileBaseline.read(one.watched_files, lambda: 1000.0) for one in sidecars}
    registry = CollectorRegistry()
    reloader = Reloader(sidecars, before, ReloadSettings(), ReloadMetrics(registry), lambda: 1000.0)
    steps = []

    def enter() -> None:
        files[0].write_text("answer: two\nrevision: '2'\n")
        files[1].write_text(second)
        steps.append("enter")

    problems = await reloader.reload_together(enter, lambda: steps.append("leave"))
    good = "revision" in second
    assert [one.describe()["revision"] for one in sidecars] == (["2", "2"] if good else ["1", "1"])
    assert steps == (["enter"] if good else ["enter", "leave"])
    assert bool(problems) is not good
    assert registry.get_sample_value("sidecars_config_reload_failures_total", {"sidecar": "authz"}) in {
        0,
        None,
    }
