"""findings/ follows its own rules.

The scripts themselves run by hand only, because they download packages.
"""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))
README = (ROOT / "findings" / "README.md").read_text(encoding="utf-8")


def test_the_page_lists_every_script_with_the_place_that_minds_it() -> None:
    rows = re.findall(r"^\| `(\w+\.sh)` \| .+ \| `(.+)` \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == [script.name for script in SCRIPTS]
    assert [place for _, place in rows if not (ROOT / place).is_file()] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_can_be_run_leaves_nothing_and_pins_what_it_installs(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert re.search(r"^trap '.*rm -rf \"\$folder\"' EXIT$", text, re.MULTILINE)
    installed = re.findall(r"pip install --quiet --disable-pip-version-check((?:\\\n|[^\n])*)", text)
    packages = [word for line in installed for word in line.replace("\\\n", " ").split()]
    modules = re.findall(r"go (?:install|get) (\S+)", text)
    assert packages or modules
    assert [name for name in packages if "==" not in name] == []
    assert [name for name in modules if not re.search(r"@v\d", name)] == []
