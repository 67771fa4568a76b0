from itertools import product
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.request.path import (
    MAX_ODD_CHARACTERS,
    MAX_PATH_CHARACTERS,
    NO_ANOMALY,
    PathAnomaly,
    _split_odd,
    split_path,
)


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        ("/", ("",)),
        ("/a", ("a",)),
        ("/a/", ("a", "")),
        ("/users/42", ("users", "42")),
        ("/a.b/...", ("a.b", "...")),
        ("/%61dmin", ("admin",)),
        ("/caf%C3%A9", ("café",)),
        ("/100%25", ("100%",)),
        ("/a%3Fb%23c", ("a?b#c",)),
        ("/a%20b", ("a b",)),
        ("/@me:x,y=z!$&'()*+~_-", ("@me:x,y=z!$&'()*+~_-",)),
    ],
)
def test_an_ordinary_path_is_cut_and_decoded_by_segment(raw: str, segments: tuple[str, ...]) -> None:
    path = split_path(raw)
    assert (path.segments, path.oddities) == (segments, NO_ANOMALY)


@pytest.mark.parametrize(
    ("raw", "anomaly"),
    [
        ("//admin/people", PathAnomaly.EMPTY_SEGMENT),
        ("/a//b", PathAnomaly.EMPTY_SEGMENT),
        ("/a//", PathAnomaly.EMPTY_SEGMENT),
        ("/.", PathAnomaly.DOT_SEGMENT),
        ("/..", PathAnomaly.DOT_SEGMENT),
        ("/public/../admin", PathAnomaly.DOT_SEGMENT),
        ("/public/./admin", PathAnomaly.DOT_SEGMENT),
        ("/public/%2e%2E/admin", PathAnomaly.DOT_SEGMENT),
        ("/public/.%2e/admin", PathAnomaly.DOT_SEGMENT),
        ("/public/..;/admin", PathAnomaly.DOT_SEGMENT),
        ("/public/..%3b/admin", PathAnomaly.DOT_SEGMENT),
        ("/a%2Fb", PathAnomaly.ENCODED_SLASH),
        ("/public/..%2fadmin", PathAnomaly.ENCODED_SLASH),
        ("/a\\b", PathAnomaly.BACKSLASH),
        ("/a%5Cb", PathAnomaly.BACKSLASH),
        ("/a%252Fb", PathAnomaly.DOUBLE_ENCODING),
        ("/%25%32%66", PathAnomaly.DOUBLE_ENCODING),
        ("/a;v=1", PathAnomaly.PARAMETERS),
        ("/a%3Bv=1", PathAnomaly.PARAMETERS),
        ("/a#b", PathAnomaly.FRAGMENT),
        ("/100%", PathAnomaly.BAD_ESCAPE),
        ("/%2", PathAnomaly.BAD_ESCAPE),
        ("/%zz", PathAnomaly.BAD_ESCAPE),
        ("/%u002e", PathAnomaly.BAD_ESCAPE),
        ("/%ff", PathAnomaly.NOT_UTF8),
        ("/%c0%af", PathAnomaly.NOT_UTF8),
        ("/café", PathAnomaly.NOT_ASCII),
        ("/a b", PathAnomaly.CONTROL),
        ("/a%0ab", PathAnomaly.CONTROL),
        ("/a\tb", PathAnomaly.CONTROL),
        ("/a%7f", PathAnomaly.CONTROL),
        ("/a%c2%85", PathAnomaly.CONTROL),
        ("/a%00b", PathAnomaly.NUL),
        ("/a\0b", PathAnomaly.NUL),
    ],
)
def test_what_readers_differ_about_is_named(raw: str, anomaly: PathAnomaly) -> None:
    assert anomaly in split_path(raw).oddities


def test_cve_2026_26205_no_segment_is_lost_to_a_url_parser() -> None:
    """To urlsplit it is `//admin/people` the host `admin` and `/people`."""
    path = split_path("//admin/people")
    assert path.segments == ("", "admin", "people")
    assert PathAnomaly.EMPTY_SEGMENT in path.oddities


def test_cve_2021_29492_an_escaped_slash_separates_nothing() -> None:
    assert split_path("/a%2Fb").segments != split_path("/a/b").segments


@pytest.mark.parametrize("dots", ["..", "%2e%2e", ".%2E", "%2e."])
@pytest.mark.parametrize("slash", ["/", "%2f", "\\", "%5C"])
def test_cve_2026_33494_and_cve_2026_42274_no_way_up_is_ordinary(dots: str, slash: str) -> None:
    assert split_path(f"/public/{dots}{slash}admin").oddities


@pytest.mark.parametrize(
    ("raw", "reading"),
    [
        ("/public/..%2fadmin", "/admin"),
        ("/public/..%252fadmin", "/admin"),
        ("/public%5c..%5cadmin", "/admin"),
        ("/a//b/./c", "/a/b/c"),
        ("/a;v=1/b;w", "/a/b"),
        ("/admin#x", "/admin"),
        ("/a%2f", "/a/"),
        ("/..", "/"),
        ("//host/admin", "/admin"),
        ("//host//admin", "/admin"),
        ("//host", "/"),
        ("///admin", "/admin"),
        ("///host/admin", "/admin"),
        ("/%2F/host/admin", "/admin"),
        ("/%2Fhost/admin", "/admin"),
        ("/%252Fhost%252Fadmin", "/admin"),
        ("/\\host/admin", "/admin"),
        ("/%5Chost/admin", "/admin"),
        ("//host/a;v/b", "/a/b"),
        ("/admin//x;p", "/admin/x;p"),
        ("/\\host%2fx/admin", "/admin"),
        ("//host%2fx/admin", "/admin"),
        ("/\\host%5Cx/admin", "/admin"),
        ("/admin\\x%5Cy", "/admin/x\\y"),
        ("/a%23b/c#/x", "/a#b/c"),
        ("/a%3Bb;v/c", "/a;b/c"),
        ("/admin//x%2fy", "/admin/x/y"),
        ("/admin%23x%2fy", "/admin"),
        ("/admin%3Fx%2fy", "/admin"),
    ],
)
def test_every_reading_of_an_upstream_is_there(raw: str, reading: str) -> None:
    assert tuple(reading[1:].split("/")) in readings(raw)
    assert readings(raw)[0] == split_path(raw).segments


def readings(raw: str) -> tuple[tuple[str, ...], ...]:
    found = split_path(raw).readings()
    assert found is not None
    return found


def test_a_path_with_too_many_readings_has_none() -> None:
    """All that is odd at once, and a path that takes long."""
    assert split_path("/" + "//a%5c%2f;v" * 3).readings() is not None
    assert split_path("/" + "//a%5c%2f;%252f#%25252f" * 3).readings() is None
    assert split_path("//a" * MAX_ODD_CHARACTERS).readings() is None


def test_escapes_of_escapes_do_not_multiply_the_work() -> None:
    nested = "/" + "%25" * 10 + "2f" * (MAX_PATH_CHARACTERS // 4)
    assert split_path(nested).readings() is None
    assert split_path("/" + "%25" * 10 + "2f" * (MAX_ODD_CHARACTERS // 4)).readings()


plain = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-_.~@:"), min_size=1)
wild = st.lists(
    st.sampled_from(
        [
            "/",
            "%",
            "%2f",
            "%2F",
            "%25",
            "%2e",
            "%5c",
            "%3b",
            "%00",
            ".",
            "..",
            "\\",
            ";",
            "#",
            "a",
            "é",
            "\0",
            " ",
        ]
    )
).map("".join)


@given(st.lists(plain.filter(lambda segment: segment not in {".", ".."}), min_size=1))
def test_every_ordinary_segment_survives_as_it_is(segments: list[str]) -> None:
    path = split_path("/" + "/".join(segments))
    assert path.segments == tuple(segments)
    assert not path.oddities


@given(st.lists(st.text(min_size=1), min_size=1))
def test_an_encoded_segment_decodes_to_what_was_encoded(segments: list[str]) -> None:
    """Paths are split before they are decoded, so that a segment keeps its slashes (RFC 3986 section 2.4)."""
    assert split_path("/" + "/".join(quote(segment, safe="") for segment in segments)).segments == tuple(
        segments
    )


@given(wild)
def test_a_path_without_anomalies_has_one_reading(tail: str) -> None:
    path = split_path("/" + tail)
    if not path.oddities:
        assert path.readings() == (path.segments,)


@given(wild)
def test_a_path_without_anomalies_holds_nothing_that_separates_or_ends(tail: str) -> None:
    path = split_path("/" + tail)
    if not path.oddities:
        assert not any(mark in segment for mark, segment in product("/\\\0", path.segments))
        assert "" not in path.segments[:-1]
        assert not {".", ".."} & set(path.segments)


@given(st.text(st.sampled_from("/a-_.%2;é\n"), max_size=8))
def test_a_plain_path_is_split_as_any_other(rest: str) -> None:
    """The test for most paths lets none pass that has an anomaly."""
    path = split_path(f"/{rest}")
    assert path.raw == f"/{rest}"
    assert path == _split_odd(f"/{rest}")
