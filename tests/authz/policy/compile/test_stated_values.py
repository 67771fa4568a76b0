"""What a policy file states about itself, and which numbers it may compare with."""

from pathlib import Path

import pytest

from authz.policy.compile.load import load_policy, parse_policy
from common.configfile import ConfigError
from tests.authz.policy.compile.test_load import RULE


def test_the_revision_is_the_one_that_a_file_states(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('revision: "20261129"\n' + RULE % "a")
    (tmp_path / "b.yaml").write_text(RULE % "b")
    assert load_policy([tmp_path]).revision == "20261129"
    (tmp_path / "b.yaml").write_text("revision: other\n" + RULE % "b")
    with pytest.raises(ConfigError, match=r"b\.yaml:1: revision: is already defined in .*a\.yaml"):
        load_policy([tmp_path])


@pytest.mark.parametrize(
    "number", ["99999999999999999999", "{at_most: .inf}", "{at_least: .nan}", "[1, -.inf]"]
)
def test_a_number_that_no_token_can_have_is_a_problem_of_its_line(number: str) -> None:
    """JSON has no infinite numbers, and most libraries keep 64 bits (RFC 8259 section 6)."""
    with pytest.raises(ConfigError, match=r"<text>:1: rules\[0\]\.allow\.claims\.x: .* at most 64 bits"):
        parse_policy(f"rules: [{{name: r, allow: {{claims: {{x: {number}}}}}}}]")


@pytest.mark.parametrize("revision", ["", "a b", "x" * 65, "12", "{}"])
def test_a_revision_is_a_short_name(revision: str) -> None:
    with pytest.raises(ConfigError, match="revision"):
        parse_policy(f"revision: {revision}\n")
