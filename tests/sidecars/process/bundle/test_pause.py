"""How long an edge waits between two requests."""

from pathlib import Path

import pytest

from sidecars.process.bundle.pause import pause_seconds
from sidecars.settings.bundle import BundleSettings

SETTINGS = BundleSettings(
    url="https://config.example.com/b.tar.gz",
    keys={"release": Path("/release.pem")},
    folder=Path("/bundles"),
    interval_seconds=30,
    long_poll_seconds=60,
)


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 30.0), (0.5, 27.0), (1.0, 24.0)])
def test_the_interval_is_shortened_by_up_to_a_fifth(random: float, seconds: float) -> None:
    assert pause_seconds(SETTINGS, random) == seconds


@pytest.mark.parametrize(
    ("failures", "random", "seconds"),
    [(1, 0.0, 1.0), (2, 0.0, 2.0), (5, 0.0, 16.0), (6, 0.0, 30.0), (10**6, 0.0, 30.0), (6, 1.0, 15.0)],
)
def test_failures_double_the_pause_up_to_the_interval(failures: int, random: float, seconds: float) -> None:
    assert pause_seconds(SETTINGS, random, failures=failures) == seconds
    assert pause_seconds(SETTINGS, random, failures=failures, held=True) == seconds


@pytest.mark.parametrize(("took", "seconds"), [(0.0, 0.5), (0.2, 0.3), (55.0, 0.0)])
def test_a_long_poll_follows_at_once_unless_the_server_answers_at_once(took: float, seconds: float) -> None:
    assert pause_seconds(SETTINGS, 0.9, took_seconds=took, held=True) == pytest.approx(seconds)
