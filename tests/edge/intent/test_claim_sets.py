"""Claims as sets of requests: overlaps and inclusion agree with a search over all small requests."""

from itertools import product
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from authz.policy.types.paths import EXACT
from authz.policy.types.pattern import HostPattern, Template, parse_host, parse_template
from edge.intent.check.overlaps import Holding, Stake, overlapping
from edge.intent.check.spelling import Spelling
from edge.intent.claims import (
    Claim,
    host_includes,
    hosts_overlap,
    parse_claim,
    path_includes,
    paths_overlap,
    specificity,
)
from edge.intent.model import UNSAID

SEGMENTS: Final = ("a", "b", "")
PATHS: Final = [path for length in range(1, 5) for path in product(SEGMENTS, repeat=length)]
"""Every path of up to four segments; templates have up to three, so that a rest has some to cover."""
HOSTS: Final = ["x", "a.x", "b.x", "a.b.x", "c.a.b.x", "y", "a.y", "ax"]

PIECES: Final = st.lists(st.sampled_from(["a", "b", "{}"]), max_size=3)
ENDS: Final = st.sampled_from(["", "/", "/**", "/{rest=**}"])


@st.composite
def templates(draw: st.DrawFn) -> Template:
    pieces = [f"{{v{n}}}" if piece == "{}" else piece for n, piece in enumerate(draw(PIECES))]
    return parse_template("".join(f"/{piece}" for piece in pieces) + draw(ENDS) or "/")


def hosts() -> st.SearchStrategy[HostPattern]:
    return st.sampled_from(["*", "*.x", "x", "a.x", "*.b.x", "a.b.x", "*.a.b.x", "y", "*.y"]).map(parse_host)


def paths_of(template: Template) -> set[tuple[str, ...]]:
    return {path for path in PATHS if template.bind(path) is not None}


def hosts_of(pattern: HostPattern) -> set[str]:
    return {host for host in HOSTS if host_includes(pattern, HostPattern(host))}


@given(templates(), templates())
def test_paths_overlap_if_a_path_is_in_both(one: Template, other: Template) -> None:
    assert paths_overlap(one, other) == paths_overlap(other, one) == bool(paths_of(one) & paths_of(other))


@given(templates(), templates())
def test_a_path_includes_another_if_it_has_each_of_its_paths(wide: Template, narrow: Template) -> None:
    assert path_includes(wide, narrow) == (paths_of(narrow) <= paths_of(wide))


@given(hosts(), hosts())
def test_hosts_overlap_and_include_as_the_hosts_that_they_match(one: HostPattern, other: HostPattern) -> None:
    assert hosts_overlap(one, other) == bool(hosts_of(one) & hosts_of(other))
    if host_includes(one, other):
        assert hosts_of(other) <= hosts_of(one)


@given(templates(), templates())
def test_of_two_templates_that_cover_a_path_one_is_more_specific_or_they_are_equal(
    one: Template, other: Template
) -> None:
    if paths_overlap(one, other) and specificity(one) == specificity(other):
        assert (one.segments, one.rest) == (other.segments, other.rest)


@given(templates(), templates())
def test_a_template_within_another_is_at_least_as_specific(one: Template, other: Template) -> None:
    if path_includes(one, other):
        assert specificity(other) <= specificity(one)


claims = st.builds(Claim, hosts(), templates())


@given(st.lists(st.tuples(st.sampled_from(["t1", "t2", "t3"]), claims), max_size=6))
def test_overlaps_are_found_exactly_where_two_owners_share_a_request(owned: list[tuple[str, Claim]]) -> None:
    holdings = [
        Holding(owner, (claim.host,), (Stake(owner, owner, claim.path, UNSAID, ()),))
        for owner, claim in owned
    ]
    found = list(overlapping(holdings, Spelling(EXACT), "team"))
    expected = any(one[0] != other[0] and one[1].overlaps(other[1]) for one in owned for other in owned)
    assert bool(found) == expected


@given(claims)
def test_a_claim_is_what_its_text_says(claim: Claim) -> None:
    again = parse_claim(str(claim))
    assert (again.host, again.path.segments, again.path.rest) == (
        claim.host,
        claim.path.segments,
        claim.path.rest,
    )
