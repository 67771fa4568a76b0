"""docs/edge.md agrees with the code and the example."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from common.configfile import ConfigError
from edge.intent.estate import load_estate
from edge.intent.platform_file import PlatformFile
from edge.intent.service_file import ServiceFile
from sidecars.cli import main
from tests.edge.estates import TODAY

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")


def test_the_service_of_the_page_is_valid() -> None:
    [text] = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "service:" in block]
    assert ServiceFile.model_validate(yaml.safe_load(text)).service == "checkout"


def test_the_page_has_every_key_of_the_platform() -> None:
    table = PAGE.partition("## The platform")[2]
    keys = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(keys[: len(PlatformFile.model_fields)]) == set(PlatformFile.model_fields)


def test_the_explanation_of_the_page_is_that_of_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    [block] = [
        text for text in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) if "edge explain" in text
    ]
    command, *lines = block.splitlines()
    with pytest.raises(SystemExit), contextlib.chdir(ROOT):
        main(command.removeprefix("$ sidecars ").split())
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > 5
    assert [line for line in lines if line != "..." and line.split() not in printed] == []


def test_the_problems_of_the_page_are_those_of_a_changed_example(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "examples/edge", tmp_path / "edge")
    file = folder / "services/search.yaml"
    text = file.read_text(encoding="utf-8").replace(
        "hosts: [api.example.com]", "hosts: [checkout.example.com]"
    )
    file.write_text(
        text.replace("requests: 20, period: 1s, burst: 40", "requests: 5000, period: 1s"), encoding="utf-8"
    )
    with pytest.raises(ConfigError) as refused:
        load_estate(folder, TODAY)
    found = {str(problem).removeprefix(f"{folder}/") for problem in refused.value.problems}
    shown = re.findall(r"^services/search\.yaml:.*$", PAGE, re.MULTILINE)
    assert len(shown) == 2
    assert set(shown) <= found
