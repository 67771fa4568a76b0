"""Envoy's matches cover exactly the paths that templates cover."""

import re
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from authz.policy.types.pattern import Template, parse_template
from authz.request.path import PathAnomaly, split_path
from edge.build.envoy_paths import path_match, program_size
from tests.edge.build.interpreted import covers

LITERALS = ["a", "b", "a b", "a+b", "caf\u00e9", "(a)", "v1.2", "~x", "a@b", "$", "'", '"<>', "x[1"]
SEGMENTS = st.sampled_from([*LITERALS, "{x}", "{y}"])
ENDS = st.sampled_from(["", "/{rest=**}", "/"])
ESCAPED = (
    "a%20b",
    "a+b",
    "a%2Bb",
    "a%2bb",
    "caf%C3%A9",
    "caf%c3%a9",
    "%28a)",
    "(a%29",
    "v1.2",
    "a@b",
    "a%40b",
    "x[1",
)
PIECES = st.sampled_from(["a", "b", "", "x", "~x", "$", "%24", "'", "%27", '"<>', "%22%3C%3e", *ESCAPED])


def as_template(segments: list[str], end: str) -> Template:
    """Return a template in which no variable occurs twice."""
    names = iter(range(100))
    pieces = [f"{{v{next(names)}}}" if piece.startswith("{") else piece for piece in segments]
    return parse_template("/" + "/".join(pieces) + end)


@given(st.lists(SEGMENTS, min_size=1, max_size=3), ENDS, st.lists(PIECES, min_size=1, max_size=4))
def test_envoy_matches_what_the_template_matches(segments: list[str], end: str, pieces: list[str]) -> None:
    template = as_template(segments, end)
    path = split_path("/" + "/".join(pieces))
    if path.oddities & ~PathAnomaly.EMPTY_SEGMENT:
        return
    assert covers(path_match(template), path.raw) == (template.bind(path.segments) is not None), template.text


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("/orders", {"path": "/orders"}),
        ("/orders/", {"path": "/orders/"}),
        ("/files/{rest=**}", {"path_separated_prefix": "/files"}),
        ("/{rest=**}", {"prefix": "/"}),
        ("/users/{id}/orders", {"safe_regex": {"regex": "/users/[^/]+/orders"}}),
        ("/users/{id}/{rest=**}", {"safe_regex": {"regex": "/users/[^/]+(?:/.*)?"}}),
        ("/a+b", {"safe_regex": {"regex": r"/a(?:\+|%2[Bb])b"}}),
        ("/a b", {"safe_regex": {"regex": "/a%20b"}}),
    ],
)
def test_the_simplest_match_is_used(template: str, match: dict[str, Any]) -> None:
    assert path_match(parse_template(template)) == match


@given(st.lists(SEGMENTS, min_size=1, max_size=12), ENDS)
def test_the_size_is_never_less_than_what_envoy_counts(segments: list[str], end: str) -> None:
    template = as_template(segments, end)
    match = path_match(template)
    if "safe_regex" not in match:
        assert program_size(template) == 0
        return
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    counted = re2.compile(match["safe_regex"]["regex"].encode(), options).programsize
    assert counted <= program_size(template)
    if template.text.isascii() and re.fullmatch(r"[\w/{}.~=*-]+", template.text):
        assert counted == program_size(template)
