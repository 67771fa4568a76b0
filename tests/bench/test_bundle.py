"""`python -m bench bundle` swaps real bundles in a real suite."""

from itertools import pairwise

import pytest

from bench import bundle
from bench.bundle import GOALS, BundlePlan, run
from bench.tools.bundle_edge import SIDECAR_FILES, Bundles
from edge.bundle.bundle import read_bundle


def test_each_bundle_is_newer_than_the_one_before_and_differs_in_one_team() -> None:
    bundles = Bundles(b"{}", teams=9, routes_of_team=4)
    made = [read_bundle(bundles.next()[1]) for _ in range(3)]
    for old, new in pairwise(made):
        assert (new.manifest.sequence or 0) == (old.manifest.sequence or 0) + 1
        assert new.manifest.revision != old.manifest.revision
        old_lines, new_lines = (one.files["policy.json"].splitlines() for one in (old, new))
        assert len([line for line in new_lines if line not in old_lines]) == 2  # the route and the revision
    assert {*SIDECAR_FILES, "keys.json"} == set(made[0].content)


@pytest.mark.timeout(180)
def test_each_goal_has_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "QUICK", BundlePlan(teams=9, routes_of_team=4, swaps=1, seconds=1.5))
    measured = run(quick=True, say=lambda _: None)
    assert measured.figures.keys() > GOALS.keys()
    assert len(measured.rounds["swap_seconds"]) == 1
