"""The plots of a simulated day (docs/releases.md)."""

from bisect import bisect
from pathlib import Path
from typing import Final

from bench.report.svg import image, linear_axis
from bench.tools.fleet_day import Lived, delays

BEFORE_SECONDS: Final = 60
AFTER_SECONDS: Final = 180
PLOT_MINUTES: Final = 60
SAMPLE_SECONDS: Final = 6
TICK_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
MOST_TICKS: Final = 6

Points = list[tuple[float, float]]


def write_plots(folder: Path, lived: Lived) -> None:
    """Write the plots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fleet-rollout.svg").write_text(rollout_plot(lived), encoding="utf-8")
    (folder / "fleet-outage.svg").write_text(outage_plot(lived), encoding="utf-8")


def rollout_plot(lived: Lived) -> str:
    """Return how many edges serve a good and a bad release, over the time since it started."""
    good = next(step.revision for step in lived.steps if step.active == 4)
    bad = lived.bad_release()[2].revision
    shares = {
        "a good release": ("authz", _share_over_time(lived, good)),
        "a release whose errors rise": ("accesslog", _share_over_time(lived, bad)),
    }
    minutes = linear_axis(
        "minutes since the start", [(one, str(one)) for one in range(0, PLOT_MINUTES + 1, 10)]
    )
    percent = linear_axis("edges that serve it", [(one, f"{one} %") for one in range(0, 101, 20)])
    title = f"A good and a bad release to {lived.day.nodes:,} edges"
    return image(title, shares, minutes, percent)


def _share_over_time(lived: Lived, revision: str) -> Points:
    own = [(step, times) for step, times in delays(lived) if step.revision == revision]
    started = own[0][0].at
    begun = sorted(step.at + after for step, times in own if step.action == "promote" for after in times)
    ended = sorted(step.at + after for step, times in own if step.action == "rollback" for after in times)

    def share(at: float) -> float:
        return 100 * (bisect(begun, at) - bisect(ended, at)) / lived.day.nodes

    sampled = range(0, PLOT_MINUTES * 60 + 1, SAMPLE_SECONDS)
    return [(seconds / 60, share(started + seconds)) for seconds in sampled]


def outage_plot(lived: Lived) -> str:
    """Return the requests and the refused connections a second around the outage of the server."""
    server, outage = lived.fleet.server, lived.day.outage
    began, ended = int(outage.began), int(outage.ended)
    seconds = range(began - BEFORE_SECONDS, ended + AFTER_SECONDS)
    answered = [(float(one - began), float(server.requests[one])) for one in seconds]
    refused = [(float(one - began), float(server.refused[one])) for one in range(began, ended)]
    most = max(count for _, count in (*answered, *refused))
    step = next(size for size in TICK_SIZES if most / size <= MOST_TICKS)
    counts = range(0, int(most) + step, step)
    x = linear_axis(
        "seconds since the server went away",
        [(float(one), str(one)) for one in range(-BEFORE_SECONDS, ended - began + AFTER_SECONDS + 1, 60)],
    )
    y = linear_axis("a second", [(count, f"{count:,.0f}") for count in counts])
    series = {"requests": ("authz", answered), "refused connections": ("accesslog", refused)}
    return image(f"An outage of the server of {lived.day.nodes:,} edges", series, x, y)
