"""A simulated day of releases to 5,000 edges: load of the server, time to arrive, what a bad release reaches.

Edges, server and traffic are simulated. The code of the product decides when an edge asks, what it serves,
and when a roll-out goes on or stops. The same seed gives the same day on any machine.
"""

from pathlib import Path
from typing import Final

from bench.tools.fleet import Server
from bench.tools.fleet_day import Day, Lived, at_share, delays, live
from bench.tools.fleet_plot import write_plots
from bench.tools.goals import Figures, Goal, Measured
from bench.transport import Say

GOALS: Final = {
    "share_not_modified": Goal(at_least=0.95),
    "seconds_to_99_9_percent": Goal(at_most=31.0),
    "bad_release_reached_share": Goal(at_most=0.02),
    "shadowed_release_reached_nodes": Goal(at_most=0),
    "ratio_peak_after_outage": Goal(at_most=2.0),
    "ratio_peak_after_short_outage": Goal(at_most=5.0),
}
"""Releases arrive within one poll (30 s), a bad one reaches canaries alone, no herd follows an outage.

An edge makes at most five attempts in an interval: pauses grow from 1/8 of it, less up to a half at random.
"""

PEAK_WITHIN_SECONDS: Final = 120


def figures(lived: Lived) -> Figures:
    """Return the figures of a day."""
    return {**_load(lived), **_arrival(lived), **_harm(lived)}


def _load(lived: Lived) -> Figures:
    server, day = lived.fleet.server, lived.day
    total = sum(server.requests.values())
    away = sum(outage.ended - outage.began for outage in (day.outage, day.short_outage))
    mean = total / (day.seconds - away)
    after, after_short = (_peak_after(server, outage.ended) for outage in (day.outage, day.short_outage))
    return {
        "requests_a_second_mean": mean,
        "requests_a_second_peak": float(max(server.requests.values())),
        "requests_a_second_peak_after_step": max(_peak_after(server, step.at) for step in lived.steps),
        "share_not_modified": server.not_modified / total,
        "bundles_fetched": float(server.bundles),
        "outage_refused_a_second_peak": float(max(server.refused.values())),
        "requests_a_second_peak_after_outage": after,
        "ratio_peak_after_outage": after / mean,
        "requests_a_second_peak_after_short_outage": after_short,
        "ratio_peak_after_short_outage": after_short / mean,
    }


def _peak_after(server: Server, at: float) -> float:
    return float(max(server.requests[int(at) + one] for one in range(PEAK_WITHIN_SECONDS)))


def _arrival(lived: Lived) -> Figures:
    waves = [times for step, times in delays(lived) if step.action == "promote" and times]
    return {
        "seconds_to_50_percent": at_share(max(waves, key=len), 0.5),
        "seconds_to_99_9_percent": max(at_share(times, 0.999) for times in waves),
    }


def _harm(lived: Lived) -> Figures:
    start, canary, held, back = lived.bad_release()
    after = {step: times for step, times in delays(lived) if step in {canary, back}}
    in_shadow = next(step for step in lived.steps if step.action == "hold" and not step.active)
    reached = lived.changed_to(held.revision)
    return {
        "bad_release_reached_nodes": float(reached),
        "bad_release_reached_share": reached / lived.day.nodes,
        "bad_release_seconds_from_canary_to_hold": held.at - canary.at,
        "bad_release_seconds_from_start_to_hold": held.at - start.at,
        "bad_release_seconds_from_canary_to_gone": back.at + after[back][-1] - canary.at,
        "rollback_seconds": after[back][-1],
        "shadowed_release_reached_nodes": float(lived.changed_to(in_shadow.revision)),
    }


def run(*, quick: bool, say: Say, folder: Path | None = None) -> Measured:
    """Simulate a day. `quick` has 500 edges. Into `folder`, it writes the plots of docs/releases.md."""
    day = Day(nodes=500) if quick else Day()
    say(f"{day.nodes} edges")
    lived = live(day)
    if folder is not None:
        write_plots(folder, lived)
    return Measured(figures(lived))
