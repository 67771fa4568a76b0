"""docs/edge.md agrees with the code and the example."""

import re
from pathlib import Path

import yaml

from edge.intent.platform_file import PlatformFile
from edge.intent.service_file import ServiceFile

PAGE = (Path(__file__).parents[3] / "docs" / "edge.md").read_text(encoding="utf-8")


def test_the_service_of_the_page_is_valid() -> None:
    [text] = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "service:" in block]
    assert ServiceFile.model_validate(yaml.safe_load(text)).service == "checkout"


def test_the_page_has_every_key_of_the_platform() -> None:
    table = PAGE.partition("## The platform")[2]
    keys = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(keys[: len(PlatformFile.model_fields)]) == set(PlatformFile.model_fields)
