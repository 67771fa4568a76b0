"""The simulated fleet: what reaches which edges, and how often they ask the server."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.fleet import GOALS, run
from bench.tools.document import missed
from bench.tools.fleet import REGIONS, SETTINGS, Behaviour
from bench.tools.fleet_day import DENIES, ERRS, HOUR, Day, Lived, delays, live
from bench.tools.fleet_plot import write_plots
from bench.tools.pipeline import WAVES
from edge.release.choose import is_in

IMAGES = Path(__file__).parents[2] / "docs" / "images"
NODES = 200
CANARIES = {
    node
    for number in range(NODES)
    if is_in(WAVES[0], node := f"edge-{number}", {"region": REGIONS[number % len(REGIONS)]})
}


@pytest.fixture(scope="module")
def day() -> Lived:
    return live(Day(nodes=NODES))


def test_a_bad_release_reaches_the_canaries_only_and_leaves_them(day: Lived) -> None:
    bad = day.bad_release()
    assert [step.action for step in bad] == ["start", "promote", "hold", "rollback"]
    assert bad[2].why == "the share of errors is 0.05, more than 0.001"
    reached = {change.node for change in day.fleet.changes if change.revision == bad[0].revision}
    assert reached == CANARIES
    went_back = dict(delays(day))[bad[3]]
    assert len(went_back) == len(CANARIES)
    assert went_back[-1] <= SETTINGS.interval_seconds + 1


def test_a_release_that_would_deny_more_is_stopped_in_the_shadow(day: Lived) -> None:
    revision = next(name for name, does in _behaviours(day).items() if does is DENIES)
    actions = [step.action for step in day.steps if step.revision == revision]
    assert actions == ["start", "hold", "rollback"]
    assert day.changed_to(revision) == 0


def test_a_good_release_reaches_every_edge_in_the_order_of_its_waves(day: Lived) -> None:
    waves = [len(times) for step, times in delays(day) if step.revision == "r2" and step.action == "promote"]
    assert sum(waves) == NODES
    assert waves[0] == len(CANARIES)
    assert all(waves)
    last = {node.revision for node in day.fleet.nodes}
    assert last == {day.steps[-1].revision}


def test_an_outage_changes_nothing_for_edges_and_no_herd_follows(day: Lived) -> None:
    server, outage = day.fleet.server, day.day.outage
    assert not any(outage.began <= change.at < outage.ended for change in day.fleet.changes)
    inside = range(int(outage.began), int(outage.ended))
    assert not any(server.requests[second] for second in inside)
    assert sum(server.refused[second] for second in inside)
    # Every edge is back within one interval, and they come spread over it.
    after = [server.requests[int(outage.ended) + second] for second in range(int(SETTINGS.interval_seconds))]
    assert sum(after) >= NODES
    assert max(after) < NODES / 5


def test_edges_fetch_each_bundle_once(day: Lived) -> None:
    """In the shadow already, so that neither a promotion nor a rollback fetches one."""
    assert day.fleet.server.bundles == NODES * len(day.day.releases)


def test_the_same_seed_gives_the_same_day() -> None:
    short = Day(nodes=50, seconds=HOUR, releases=((600.0, ERRS),))
    first, again = live(short), live(short)
    assert first.fleet.changes == again.fleet.changes
    assert first.fleet.server == again.fleet.server


def test_a_day_of_500_edges_meets_the_goals() -> None:
    measured = run(quick=True, say=lambda _: None)
    assert measured.figures.keys() >= GOALS.keys()
    assert not missed(measured, GOALS)


def test_the_plots_are_images_in_the_docs(day: Lived, tmp_path: Path) -> None:
    write_plots(tmp_path, day)
    for name in ("fleet-rollout.svg", "fleet-outage.svg"):
        drawn = ET.parse(tmp_path / name).getroot()
        namespace = "{http://www.w3.org/2000/svg}"
        assert drawn.tag == f"{namespace}svg"
        assert len(drawn.findall(f"{namespace}polyline")) == 2
        texts = {text.text for text in drawn.iter(f"{namespace}text")}
        assert texts & {"a good release", "refused connections"}
        assert (IMAGES / name).exists()


def _behaviours(day: Lived) -> dict[str, Behaviour]:
    return {f"r{number}": does for number, (_, does) in enumerate(day.day.releases, 2)}
