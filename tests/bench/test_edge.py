"""The benchmark of intent: its estate is right, and its figures are those of the goals."""

from bench.edge import GOALS, TODAY, run
from bench.tools.estate import large_estate
from edge.intent.estate import EstateReader


def test_the_large_estate_is_right_and_has_the_routes_that_were_wanted() -> None:
    estate = EstateReader().read(large_estate(teams=9, routes=11), TODAY)
    assert len(estate.services) == 9
    assert {len(service.routes) for service in estate.services} == {11}


def test_each_goal_has_a_figure() -> None:
    assert run(quick=True, say=lambda _: None).figures.keys() > GOALS.keys()
