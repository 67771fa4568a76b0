"""docs/authn.md agrees with the code."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.credentials import CredentialsConfig
from authz.engine.decide import REFUSED
from authz.request.identity import RefusalReason
from tests.support.authority import Authority
from tests.support.credentials import CredentialsHarness
from tests.support.signing import jwk, key_set, private_key

DOCUMENT = (Path(__file__).parents[3] / "docs" / "authn.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_is_a_configuration(harness: CredentialsHarness, text: str) -> None:
    block = yaml.safe_load(text)
    assert block.keys() == {"credentials"}
    harness.write("keys.json", key_set(jwk(private_key("ES256"))))
    harness.write("introspection.secret", b"secret")
    harness.write("corp-ca.pem", Authority("corp").certificate)
    harness.redis = object()
    credentials = harness.credentials(block["credentials"])
    assert isinstance(credentials.config, CredentialsConfig)


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, f"docs/authn.md has no heading {heading!r}"
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("row", rows("Outages"), ids=lambda row: row[0])
def test_each_row_of_the_failure_table_names_a_test(row: list[str]) -> None:
    assert len(row) == 7
    module_name, _, name = row[-1].strip("`").partition("::")
    module: Any = importlib.import_module(f"tests.authz.credentials.{module_name.replace('/', '.')}")
    classes = [found for _, found in inspect.getmembers(module, inspect.isclass)]
    assert any(hasattr(place, name) for place in (module, *classes))


def test_each_reason_is_explained_with_its_status() -> None:
    explained = {
        reason: int(status)
        for names, status, _ in rows("Reasons")
        for reason in re.findall(r"`([a-z_]+)`", names)
    }
    assert explained == {reason.value: REFUSED[reason].status for reason in RefusalReason}


def test_each_metric_that_is_named_exists(harness: CredentialsHarness) -> None:
    harness.redis = object()
    harness.credentials({"sessions": {"store": "redis"}})
    known = {
        metric.name + ("_total" if metric.type == "counter" else "") for metric in harness.registry.collect()
    }
    named = set(re.findall(r"`(authz_[a-z_]+)", DOCUMENT))
    assert named <= known
