from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from authz.tools.formatter import format_policy
from common.configfile import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"

UNTIDY = """\
# Of the file.

rules:
    # about a
    - allow: anyone   # behind
      # about paths
      paths:
      - /a
      - /b
      name: a


    - {name: b, deny: anyone}
    # about c
    -   name: c
        when: >
            subject == 'x'
            # no comment
        allow:
            scopes: [a,
               b]
conditions:
   x:
     when: 'true'
     client: [10.0.0.0/8]
# at the end
"""
TIDY = """\
# Of the file.

conditions:
  x:
    client: [10.0.0.0/8]
    when: 'true'

rules:
  # about a
  - name: a
    # about paths
    paths:
      - /a
      - /b
    allow: anyone   # behind

  - {name: b, deny: anyone}

  # about c
  - name: c
    when: >
        subject == 'x'
        # no comment
    allow:
      scopes: [a,
         b]
# at the end
"""


def test_keys_are_ordered_lines_indented_and_comments_kept() -> None:
    assert format_policy(UNTIDY) == TIDY


def test_what_is_tidy_stays_as_it_is() -> None:
    assert format_policy(TIDY) == TIDY


@pytest.mark.parametrize("name", ["policy.yaml"])
def test_the_examples_are_tidy(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert format_policy(text) == text


names = st.sampled_from(["name", "hosts", "paths", "allow", "owner", "when", "headers", "mode", "ticket"])
values = st.recursive(
    st.sampled_from(
        ["anyone", "/a", "two words", "# no comment", "a: b", "- c", "", "x\ny", "> z", 7, True, None]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "l", "m"]), inner, max_size=3)
    ),
    max_leaves=6,
)
rules = st.lists(st.dictionaries(names, values, min_size=1, max_size=5), max_size=4)


@given(
    rules,
    st.dictionaries(st.sampled_from(["x", "y"]), st.dictionaries(names, values, max_size=3), max_size=2),
    st.integers(2, 6),
    st.sampled_from([None, True, False]),
)
def test_the_data_never_changes_and_twice_is_once(
    rules: list[object], conditions: dict[str, object], indent: int, flow: bool | None
) -> None:
    data = {"rules": rules, "conditions": conditions, "include": ["a.yaml"]}
    text = yaml.safe_dump(data, indent=indent, default_flow_style=flow, sort_keys=False)
    once = format_policy(text)
    assert yaml.safe_load(once) == data
    assert format_policy(once) == once


@given(rules, st.integers(2, 6), st.lists(st.integers(0, 60), max_size=6))
def test_no_comment_is_lost(rules: list[object], indent: int, places: list[int]) -> None:
    lines = yaml.safe_dump({"rules": rules}, indent=indent, default_flow_style=False, width=9999).splitlines()
    if any(mark in line for line in lines for mark in ("|", ">", "'", '"')):
        return  # a comment in the middle of a text would be text
    for number, place in enumerate(sorted(places, reverse=True)):
        lines.insert(min(place, len(lines)), f"  # comment {number}")
    tidied = format_policy("\n".join(lines) + "\n")
    assert tidied.count("# comment") == len(places)


def test_what_is_not_yaml_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml:2: is not YAML"):
        format_policy("rules:\n- [\n", "p.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The rules come first all the same; within them the order is the usual one.
        (
            "rules:\n- allow: anyone\n  hosts: &h [a]\n  name: a\ndefaults:\n  d: {hosts: *h}\n",
            "rules:\n  - name: a\n    hosts: &h [a]\n    allow: anyone\n\ndefaults:\n  d: {hosts: *h}\n",
        ),
        # Nor can the keys of this rule change places.
        (
            "rules:\n- methods: &m [a]\n  ticket: t\n  hosts: *m\n",
            "rules:\n  - methods: &m [a]\n    ticket: t\n    hosts: *m\n",
        ),
        (
            "rules:\n- &a\n  allow: x\n  name: y\n- *a\n",
            "rules:\n  - &a\n    name: y\n    allow: x\n\n  - *a\n",
        ),
        ("rules: &a [*a]\ninclude: x\n", "include: x\n\nrules: &a [*a]\n"),
    ],
)
def test_where_order_matters_it_is_kept(text: str, expected: str) -> None:
    assert format_policy(text) == expected
    assert format_policy(expected) == expected


@pytest.mark.parametrize("text", ["? rules\n: []\n? include\n: a\n", "!!map\n? a\n: b\n"])
def test_what_cannot_be_formatted_is_reported_as_unchanged(text: str) -> None:
    with pytest.raises(ConfigError, match="stays as it is"):
        format_policy(text)


@pytest.mark.parametrize("mark", ["\r", "\x85", "\u2028", "\u2029"])
def test_a_line_that_ends_as_no_other_does_is_left_alone(mark: str) -> None:
    text = f"rules: []\n# a {mark}# b\ndefaults: {{}}\n"
    assert format_policy(text) == text


shared = st.lists(st.sampled_from(["/a", "two words", 7]), min_size=1, max_size=2)


@given(st.lists(shared, min_size=1, max_size=2), st.data(), st.sampled_from([None, False]))
def test_what_aliases_share_keeps_its_meaning(
    parts: list[list[object]], data: st.DataObject, flow: bool | None
) -> None:
    """PyYAML writes an anchor at the first occurrence of an object, and an alias at the next."""
    one = st.sampled_from(parts)
    blocks = st.dictionaries(names, one, min_size=1, max_size=4)
    keys = data.draw(st.permutations(["rules", "conditions", "defaults", "include"]))
    kinds = {
        "rules": st.lists(blocks, min_size=1, max_size=3),
        "conditions": st.dictionaries(st.sampled_from(["x", "y"]), blocks, min_size=1, max_size=2),
        "defaults": st.dictionaries(st.sampled_from(["x", "y"]), blocks, min_size=1, max_size=2),
        "include": one,
    }
    content = {key: data.draw(kinds[key]) for key in keys}
    text = yaml.dump(content, default_flow_style=flow, sort_keys=False)
    once = format_policy(text)
    assert yaml.safe_load(once) == content
    assert format_policy(once) == once
