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
    [(1, 0.0, 3.75), (2, 0.0, 7.5), (3, 0.0, 15.0), (4, 0.0, 30.0), (10**6, 0.0, 30.0), (6, 1.0, 15.0)],
)
def test_failures_double_the_pause_up_to_the_interval(failures: int, random: float, seconds: float) -> None:
    assert pause_seconds(SETTINGS, random, failures=failures) == seconds
    assert pause_seconds(SETTINGS, random, failures=failures, held=True) == seconds


@pytest.mark.parametrize(
    ("interval", "first"), [(0.05, 0.05), (0.5, 0.5), (4.0, 1.0), (8.0, 1.0), (60.0, 7.5), (86400.0, 10800.0)]
)
def test_the_first_pause_is_a_part_of_the_interval_but_no_less_than_a_second(
    interval: float, first: float
) -> None:
    settings = SETTINGS.model_copy(update={"interval_seconds": interval})
    assert pause_seconds(settings, 0.0, failures=1) == first


@pytest.mark.parametrize("interval", [1.0, 30.0, 300.0, 3600.0])
def test_an_outage_makes_at_most_a_few_times_as_many_requests(interval: float) -> None:
    settings = SETTINGS.model_copy(update={"interval_seconds": interval})
    at, failures = 0.0, 0
    while at < interval:
        failures += 1
        at += pause_seconds(settings, 0.999, failures=failures)  # the shortest pauses
    assert failures <= 5


@pytest.mark.parametrize(("took", "seconds"), [(0.0, 0.5), (0.2, 0.3), (55.0, 0.0)])
def test_a_long_poll_follows_at_once_unless_the_server_answers_at_once(took: float, seconds: float) -> None:
    assert pause_seconds(SETTINGS, 0.9, took_seconds=took, held=True) == pytest.approx(seconds)
