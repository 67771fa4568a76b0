"""docs/outcomes.md and docs/threat-model.md name existing tests, and no outcome is missing."""

import ast
import re
from pathlib import Path

import pytest

from accesslog.records.counters import DropReason
from authz.request.identity import RefusalReason
from authz.request.request import BadRequestReason
from ratelimit.stores.store import Failure

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
SCENARIOS = TESTS.parent / "envoy-test" / "scenarios"


def rows(page: str) -> list[str]:
    """Return the rows of every table in a page, without heads."""
    text = (DOCS / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


ROWS = rows("outcomes.md")
THREATS = [row for row in rows("threat-model.md") if row.count(" | ") == 3]


def exists(place: str) -> bool:
    """Return whether `FILE.py` exists, with `::NAME` or `::CLASS::NAME` in it."""
    file, *names = place.split("::")
    path = TESTS / file
    if not path.is_file():
        return False
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [one for one in body if isinstance(one, named) and one.name == name]
        if not found:
            return False
        body = found[-1].body
    return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.strip("| ").split(" | ")[0])
def test_each_row_is_proven_by_a_test(row: str) -> None:
    [place] = re.findall(r"`([\w/]+\.py[\w:]*)` \|$", row)
    assert exists(place), f"there is no test {place}"


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row.strip("| ").split(" | ")[0])
def test_each_threat_is_held_by_a_test_or_said_not_to_be(row: str) -> None:
    _, _, holds, result = (
        row.strip("| ").split(" | ") if not row.endswith("| |") else (*row.split(" | ")[:3], "")
    )
    tests = re.findall(r"`([\w/]+\.py[\w:]*)`", result)
    scenarios = re.findall(r"scenario `(\w+)`", result)
    assert tests or scenarios or "not held" in holds
    assert [one for one in tests if not exists(one)] == []
    assert [one for one in scenarios if not (SCENARIOS / f"{one}.py").is_file()] == []


@pytest.mark.parametrize("reasons", [RefusalReason, BadRequestReason, Failure, DropReason])
def test_every_reason_has_a_row(reasons: type[RefusalReason]) -> None:
    result = set(re.findall(r"`(\w+)`", "\n".join(ROWS)))
    assert {reason.value for reason in reasons} <= result
