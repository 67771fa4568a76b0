"""docs/migrating-opa.md: authz answers each request as the page says, with real tokens.

tests/shipping/test_migrating_opa.py asks a real OPA-Envoy.
"""

import re
import time
from pathlib import Path

import pytest

from tests.support.authz_sidecar import Built
from tests.support.opa_examples import PAGE, Example, examples, facts_of
from tests.support.signing import jwk, key_set, private_key

TOKENS, *PATTERNS = examples()


@pytest.mark.parametrize("example", PATTERNS, ids=lambda example: example.title)
def test_authz_answers_as_the_page_says(example: Example, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(jwk(private_key("ES256"))))
    prelude = "" if "credentials:" in example.policy else TOKENS.policy
    built = Built(tmp_path, prelude + example.policy)
    built.now = time.time()
    for case in example.cases(built.now):
        assert facts_of(built.ask(case.message), case.ours) == case.ours, case.line


def test_every_block_of_the_page_is_an_example() -> None:
    assert PAGE.count("```rego") == PAGE.count("```yaml") == len(PATTERNS) + 1 >= 12
    assert all(example.lines for example in PATTERNS)
    assert not TOKENS.lines


def test_the_list_of_sections_is_complete() -> None:
    linked = re.findall(r"\[([^\]]+)\]\(#", PAGE)
    titles = [
        title for title in re.findall(r"^## (.*)", PAGE, re.MULTILINE) if title != "Tokens for all examples"
    ]
    assert [title for title in titles if title not in linked] == []
