"""The JSON Schemas that editors show: each property says what it means."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sidecars.cli import main


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of the schema and of its definitions, by `Definition.property`."""
    for name, definition in {"": schema, **schema["$defs"]}.items():
        for key, content in definition.get("properties", {}).items():
            yield f"{name}.{key}", content


EDGE = ["edge schema service", "edge schema platform"]


@pytest.mark.parametrize("command", ["policy schema", "policy schema --suite", "config schema", *EDGE])
def test_a_schema_describes_every_property(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(command.split())
    found = dict(properties(json.loads(capsys.readouterr().out)))
    assert len(found) > 30
    assert [name for name, content in found.items() if not content.get("description")] == []
