import pytest

from authz.policy.types.pattern import (
    EVERY_HOST,
    MAX_TEMPLATE_SEGMENTS,
    HostPattern,
    parse_host,
    parse_template,
)


@pytest.mark.parametrize(
    ("text", "segments", "rest", "variables"),
    [
        ("/", ("",), False, ()),
        ("/users", ("users",), False, ()),
        ("/users/", ("users", ""), False, ()),
        ("/users/{id}", ("users", None), False, ("id",)),
        ("/users/*/posts/{post}", ("users", None, "posts", None), False, ("post",)),
        ("/files/{rest=**}", ("files",), True, ("rest",)),
        ("/**", (), True, ()),
        ("/a b/é", ("a b", "é"), False, ()),
    ],
)
def test_a_template_is_segments_and_perhaps_a_rest(
    text: str, segments: tuple[str | None, ...], rest: bool, variables: tuple[str, ...]
) -> None:
    template = parse_template(text)
    assert (template.segments, template.rest, template.variables) == (segments, rest, variables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users", "begins with /"),
        (7, "begins with /"),
        ("/a//b", "empty segment"),
        ("//{rest=**}", "empty segment"),
        ("/**/b", "must be the last segment"),
        ("/{a}/{a}", "duplicate variable"),
        ("/a*", "match whole segments"),
        ("/{id}.json", "match whole segments"),
        ("/{a=*}", "match whole segments"),
        ("/a%20b", "not its escape"),
        ("/a?b", "never part"),
        ("/a#b", "never part"),
        ("/a\\b", "never part"),
        ("/a/../b", "dot segments"),
        ("/" + "a/" * MAX_TEMPLATE_SEGMENTS, "at most"),
    ],
)
def test_a_template_that_could_never_match_is_refused(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_template(text)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*", EVERY_HOST),
        ("API.example.com", HostPattern("api.example.com")),
        ("*.Example.com.", HostPattern("example.com", wildcard=True)),
        ("[::1]", HostPattern("[::1]")),
    ],
)
def test_hosts_are_written_as_they_are_compared(text: str, pattern: HostPattern) -> None:
    assert parse_host(text) == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api.example.com:8443", "without a port"),
        ("https://api.example.com", "expected a host name"),
        ("a.*.example.com", "expected a host name"),
        ("*example.com", "expected a host name"),
        ("*.", "expected a host name"),
        ("", "expected a host name"),
        ("bücher.example", "xn--"),
        (80, "ASCII text"),
    ],
)
def test_a_host_that_could_never_match_is_refused(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_host(text)


@pytest.mark.parametrize("text", ["*", "*.example.com", "api.example.com"])
def test_a_host_pattern_prints_as_it_is_written(text: str) -> None:
    assert str(parse_host(text)) == text
