"""How a descriptor finds its rule, or why it finds none."""

import pytest

from common.configfile import parse
from ratelimit.config import compile_limits
from ratelimit.explain import explain_match
from ratelimit.match import Entry, match
from ratelimit.rules import Node, Options

LIMITS = """
domain: d
descriptors:
  - {key: any, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: path, value: /a/*, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - key: route
    value: login
    descriptors:
      - {key: host, normalise: host, rate_limit: {unit: day, requests_per_unit: 1}}
"""


@pytest.fixture
def root() -> Node:
    return compile_limits([parse(LIMITS)], Options()).domains["d"]


@pytest.mark.parametrize(
    ("entries", "steps"),
    [
        ([("any", " x ")], [("any", "any value", "x")]),
        ([("path", "/a/b")], [("path_/a/*", "wildcard", "/a/*")]),
        (
            [("route", "login"), ("host", "A.example:80")],
            [("route_login", "exact value", "login"), ("host", "any value", "a.example")],
        ),
    ],
)
def test_each_level_is_explained(root: Node, entries: list[Entry], steps: list[tuple[str, str, str]]) -> None:
    explained = explain_match(root, entries)
    assert [(step.composite, step.how, step.counted) for step in explained.steps] == steps
    assert explained.missing == ""
    found = match(root, entries)
    assert found is not None
    assert [counted for _, counted in found.counted] == [counted for _, _, counted in steps]


@pytest.mark.parametrize(
    ("entries", "missing"),
    [
        ([("x", "1")], "no descriptor with the key 'x' at level 1; there are any, path_/a/*, route_login"),
        (
            [("route", "logout")],
            "no descriptor with the key 'route' and the value 'logout' at level 1; there are route_login",
        ),
        ([("route", "login")], "no rate_limit at level 1; longer descriptors have one"),
        ([("any", "1"), ("host", "a")], "no descriptor with the key 'host' at level 2"),
    ],
)
def test_a_descriptor_without_a_rule_says_why(root: Node, entries: list[Entry], missing: str) -> None:
    assert match(root, entries) is None
    assert explain_match(root, entries).missing == missing
