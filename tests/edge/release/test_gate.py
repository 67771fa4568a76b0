"""Gates: what the edges report decides whether the next wave may begin."""

from typing import Any

import pytest

from edge.release import steps
from edge.release.gate import Report, check_gates, parse_report
from edge.release.model import Gates, Release, ReleaseError, Target, Wave, parse_gates

OLD = Target(revision="r1", digest="0" * 64, url="r1")
NEW = Target(revision="r2", digest="1" * 64, url="r2")


def release(active: int = 1, **gates: float) -> Release:
    begun = steps.start(steps.start(None, OLD), NEW, [Wave(name="a", percent=5)], Gates.model_validate(gates))
    return begun.model_copy(update={"active": active})


def report(node: str, revision: str, **counts: float) -> Report:
    usual = {"calls": 1000, "call_seconds": 0.1, "decisions": 1000, "denied": 100, "errors": 0}
    return parse_report({"node": node, "process": "all-0", "revision": revision, "counts": usual | counts})


def findings(release: Release, *reports: Report) -> list[tuple[str, str]]:
    return [(one.gate, str(one.result)) for one in check_gates(release, reports)]


@pytest.mark.parametrize(
    ("gate", "holds", "breaks"),
    [
        ({"max_error_share": 0.01}, {"errors": 10}, {"errors": 11}),
        ({"max_denied_rise": 0.05}, {"denied": 150}, {"denied": 151}),
        ({"max_slower": 2}, {"call_seconds": 0.2}, {"call_seconds": 0.201}),
    ],
)
def test_each_gate_has_its_bound(
    gate: dict[str, Any], holds: dict[str, float], breaks: dict[str, float]
) -> None:
    old = report("a", "r1")
    assert findings(release(**gate), old, report("b", "r2", **holds)) == []
    assert findings(release(**gate), old, report("b", "r2", **breaks)) == [(next(iter(gate)), "broken")]


def test_too_few_reports_break_nothing_and_let_nothing_go_on() -> None:
    assert findings(release(min_nodes=2), report("b", "r2"), report("a", "r1")) == [("min_nodes", "missing")]
    assert findings(release(min_nodes=2), report("b", "r2"), report("c", "r2")) == []
    assert findings(release(min_calls=1001), report("b", "r2")) == [("min_calls", "missing")]
    assert findings(release()) == [("min_nodes", "missing")]


@pytest.mark.parametrize("gate", [{"max_denied_rise": 0.05}, {"max_slower": 2}])
def test_a_gate_that_compares_needs_reports_of_both_revisions(gate: dict[str, Any]) -> None:
    missing = [(next(iter(gate)), "missing")]
    harmful = report("b", "r2", denied=1000, call_seconds=9)
    idle = {"calls": 0, "call_seconds": 0, "decisions": 0, "denied": 0}
    assert findings(release(**gate), harmful) == missing
    assert findings(release(**gate), harmful, report("a", "r1", **idle)) == missing
    assert findings(release(**gate), report("b", "r2", **idle), report("a", "r1")) == missing


def test_without_decisions_the_share_of_errors_is_unknown() -> None:
    reported = report("b", "r2", decisions=0, denied=0)
    assert findings(release(max_error_share=0.01), reported) == [("max_error_share", "missing")]


def test_before_the_first_wave_the_shadow_counts() -> None:
    gated = release(0, max_changed_share=0.01, min_nodes=5)
    assert findings(gated, report("a", "r1")) == [("max_changed_share", "missing")]
    good = report("a", "r1", shadow_same=990, shadow_changed=10)
    assert findings(gated, good) == []
    bad = report("b", "r1", shadow_same=900, shadow_changed=100)
    assert findings(gated, good, bad) == [("max_changed_share", "broken")]


def test_without_gates_the_first_wave_may_begin() -> None:
    assert findings(release(0)) == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"node": 7},
        {"node": "a", "counts": []},
        {"node": "a", "counts": {"calls": "7"}},
        {"node": "a", "counts": {"calls": -1}},
        {"node": "a", "counts": {"calls": float("nan")}},
        {"node": "a", "counts": {"calls": True}},
        {"node": "a" * 257},
    ],
)
def test_other_documents_are_no_reports(content: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|not a"):
        parse_report(content)


def test_gates_on_the_command_line() -> None:
    assert parse_gates(["max_error_share=0.01", "min_nodes=3"]) == Gates(max_error_share=0.01, min_nodes=3)
    for text in ("max_error_share=2", "errors=1", "min_nodes", "min_nodes=many"):
        with pytest.raises(ReleaseError, match="expected NAME=NUMBER of min_nodes"):
            parse_gates([text])
