"""docs/outcomes.md is complete, and names a test that exists for each row."""

import ast
import re
from pathlib import Path

import pytest

from accesslog.ledger import DropReason
from authz.identity import RefusalReason
from authz.request import BadRequestReason
from ratelimit.stores.store import Failure

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "outcomes.md").read_text(encoding="utf-8")
ROWS = [
    row
    for table in re.findall(r"^\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for row in table.splitlines()
    if row
]


def exists(place: str) -> bool:
    """Whether there is `FILE.py`, or in it `::NAME` or `::CLASS::NAME`."""
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


@pytest.mark.parametrize("reasons", [RefusalReason, BadRequestReason, Failure, DropReason])
def test_every_reason_has_a_row(reasons: type[RefusalReason]) -> None:
    told = set(re.findall(r"`(\w+)`", "\n".join(ROWS)))
    assert {reason.value for reason in reasons} <= told
