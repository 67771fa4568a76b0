"""docs/authz.md names tests: each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "authz.md"
NAMED = re.compile(r"`([a-z_/]+\.py)(?:::(test_\w+))?`")
SCENARIO = re.compile(r"`([a-z_]+)`")


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 70
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).is_file()
        or (test and f"def {test}(" not in (ROOT / "tests" / file).read_text())
    ]
    assert not missing


def test_every_scenario_that_the_page_names_exists() -> None:
    _, _, table = PAGE.read_text().partition("## Measured")[0].partition("| vulnerability |")
    named = {name for row in table.splitlines() for name in SCENARIO.findall(row.rpartition(" | ")[2])}
    assert len(named) > 5
    assert not named - {file.stem for file in (ROOT / "envoy-test" / "scenarios").glob("*.py")}


def test_every_row_of_the_page_has_a_test_or_says_why_not() -> None:
    features, _, _ = PAGE.read_text().partition("## Measured")
    rows = [line for line in features.splitlines() if line.startswith("| ") and " feature " not in line]
    assert [
        row for row in rows if not NAMED.search(row) and "|---" not in row and " vulnerability |" not in row
    ] == [next(row for row in rows if "clear_route_cache" in row)]
