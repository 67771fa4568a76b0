"""Another spelling of a host or a path has the same bucket."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.configfile import ConfigError, parse
from protos.lenient import mark
from ratelimit.config import compile_limits
from ratelimit.match import bucket_key, match, metric_path
from ratelimit.normalise import MAX_PATH_CHARACTERS, host_readings, path_readings
from ratelimit.rules import CompiledLimits, Options


def normal_path(text: str) -> str:
    return path_readings(text)[0]


def normal_host(text: str) -> str:
    [host] = host_readings(text)
    return host


PATHS = [
    *(
        "/login",
        "/LOGIN",
        "/login/",
        "/login//",
        "//login",
        "/./login",
        "/x/../login",
        "/login/.",
        "/../login",
    ),
    *(
        "/login?x",
        "/login?",
        "/login#x",
        "/login;v=1",
        "/x/..;/login",
        "/x;/../login",
        "\\login",
        "/x\\..\\login",
    ),
    *(
        "/%6cogin",
        "/%6Cogin",
        "/%256cogin",
        "/%25%36%63ogin",
        "/login%3fx",
        "/login%3Bx",
        "/login%23",
        "/login%00",
    ),
    *(
        "/%2e/login",
        "/x/%2e%2e/login",
        "/x/.%2e/login",
        "/x%2f..%2flogin",
        "/x%5c..%5clogin",
        "%2flogin",
        "/login%2f",
    ),
    *("/login%20", "/login.", "/login%2e", "/login. .", "/%09login", "/login\t", "login"),
]

HOSTS = [
    *("api.example.com", "API.Example.COM", "api.example.com.", "api.example.com..", "api.example.com:443"),
    *(
        "api.example.com:",
        "api.example.com.:8443",
        "api.example.com:443.",
        "user@api.example.com",
        "%61pi.example.com",
    ),
    *(
        "a:b@api.example.com:80",
        " api.example.com ",
        "api.example.com%2e",
        "api.example.com%3a80",
        "api.example.com%00",
    ),
]


@pytest.mark.parametrize("spelled", PATHS)
def test_every_spelling_of_a_path_is_the_same(spelled: str) -> None:
    assert normal_path(spelled) == "/login"


READ_IN_SEVERAL_WAYS = [
    ("/x%3f/../login", "nginx"),
    ("/x%23/../login", "nginx"),
    ("/login%3f/../x", "who decodes before parsing"),
    ("/login%00/../x", "who ends at NUL"),
    ("/login//..", "new URL(path, base) of JavaScript"),
    ("/a/..//login//..", "new URL(path, base) of JavaScript"),
    ("//host.example/login", "new URL(path, base) of JavaScript"),
    ("/\\host.example/login", "new URL(path, base) of JavaScript"),
    ("//host.example/x/../login", "new URL(path, base) of JavaScript"),
    ("/%u006cogin", "IIS"),
]


@pytest.mark.parametrize(("spelled", "by"), READ_IN_SEVERAL_WAYS)
def test_a_limit_is_met_by_what_any_server_reads(limits: CompiledLimits, spelled: str, by: str) -> None:
    assert name(limits, ("path", spelled)).startswith("d.path_/login "), by


@pytest.mark.parametrize(
    "spelled",
    ["/reports/../x", "/reports/%2e%2e/x", "/reports/..;/x", "/reports/7/../../x", "/reports/%252e%252e/x"],
)
def test_a_wildcard_is_met_where_dot_segments_are_not_resolved(limits: CompiledLimits, spelled: str) -> None:
    """Express and Starlette, and the route of an Envoy without `normalize_path`."""
    assert name(limits, ("path", spelled)) == name(limits, ("path", "/reports/8"))


def test_what_falls_under_any_value_counts_as_most_servers_read_it(limits: CompiledLimits) -> None:
    assert name(limits, ("path", "/else/../other")) == name(limits, ("path", "/other"))
    found = match(limits.domains["d"], [("path", "/else/../other")])
    assert found is not None
    metric = metric_path(limits.domains["d"], found.rule, "d", [("path", "/else/../other")])
    assert metric == ("d", "path_/other")


def test_a_path_without_dots_and_escapes_has_one_reading() -> None:
    assert path_readings("/Orders/7;v=1/?x=..") == ("/orders/7",)
    assert path_readings("/a/../b") == ("/b", "/a/../b")


def test_a_long_path_is_cut() -> None:
    long = "/" + "a" * MAX_PATH_CHARACTERS
    assert path_readings(long) == path_readings(f"{long}bc") != path_readings(long[:-2])
    assert path_readings("/login?" + "a" * MAX_PATH_CHARACTERS) == ("/login",)


def test_where_paths_and_hosts_are_cut_is_an_option() -> None:
    text = """
domain: d
descriptors:
  - {key: path, normalise: path, rate_limit: {unit: day, requests_per_unit: 5}}
  - {key: host, normalise: host, rate_limit: {unit: day, requests_per_unit: 5}}
"""
    options = Options(max_path_length=300, max_host_length=310)
    root = compile_limits([parse(text)], options).domains["d"]
    for key, longest in (("path", 300), ("host", 310)):
        begin = "/" if key == "path" else "a" * 255
        values = [begin + "b" * (length - len(begin)) for length in (longest - 1, longest, longest + 1)]
        counted = [found.counted for value in values if (found := match(root, [(key, value)]))]
        assert counted[0] != counted[1] == counted[2]


@pytest.mark.parametrize("spelled", HOSTS)
def test_every_spelling_of_a_host_is_the_same(spelled: str) -> None:
    assert normal_host(spelled) == "api.example.com"


@pytest.mark.parametrize(
    "spelled",
    [
        "[2001:db8::1]",
        "[2001:DB8:0::0:1]:443",
        "2001:db8:0:0:0:0:0:1",
        "[2001:db8::1%25eth0]",
        "[2001:db8::1%eth1]:80",
    ],
)
def test_an_ipv6_address_is_written_one_way(spelled: str) -> None:
    assert normal_host(spelled) == "[2001:db8::1]"


@pytest.mark.parametrize(
    ("spelled", "host"),
    [
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("BÜCHER。example", "xn--bcher-kva.example"),
        ("api\uff0eexample%E3%80%82com%E3%80%82:443", "api.example.com"),
        ("\uff41pi.example.com", "api.example.com"),
        ("ü" * 300, "ü" * 300),
        ("ü..", "xn--tda"),
        ("ü\u3002\u3002", "xn--tda"),
        ("a\uff1a80", "a"),
    ],
)
def test_a_host_in_another_script_is_as_dns_has_it(spelled: str, host: str) -> None:
    assert normal_host(spelled) == host


@pytest.mark.parametrize("one", ["/login", "/", "/a/b", "/caf\u00e9", "/a.b", "/a b", "/" + mark(b"\xff")])
@pytest.mark.parametrize("other", ["/logins", "/b/a", "/a/b/c", "/cafe", "/a.c", "/ab", "/" + mark(b"\xfe")])
def test_what_differs_stays_apart(one: str, other: str) -> None:
    assert normal_path(one) != normal_path(other)


def test_a_byte_that_is_not_utf_8_is_the_same_escaped_and_raw() -> None:
    assert normal_path("/" + mark(b"\xff")) == normal_path("/%ff") == normal_path("/%25FF")
    assert normal_path("/" + mark(b"\xc3") + "%A9") == normal_path("/\u00c9") == "/\u00e9"


pieces = st.lists(
    st.sampled_from(
        [
            "/",
            "//",
            "\\",
            ".",
            "..",
            "%2e",
            "%2F",
            "%25",
            "%",
            ";",
            "?",
            "#",
            "a",
            "B",
            "%00",
            "\u00c9",
            " ",
            "@",
            ":",
        ]
    ),
    max_size=12,
).map("".join)


@given(pieces)
@example("%25aa")
@example("\u00c9..")
@example("a\uff1a80")
def test_what_is_normal_stays_as_it_is(text: str) -> None:
    for normal in (normal_path, normal_host):
        again = once = normal(text)
        for _ in range(3):  # escapes within escapes may still be there: they get fewer
            again = normal(again)
        assert normal(again) == again
        if "%" not in once:
            assert again == once


@given(st.lists(st.sampled_from("abcxyz019"), min_size=1, max_size=8), st.data())
def test_no_letter_case_and_no_escape_makes_another_path(letters: list[str], data: st.DataObject) -> None:
    spelled = ""
    for letter in letters:
        case = data.draw(st.sampled_from([str.lower, str.upper]))
        spelled += data.draw(
            st.sampled_from([case(letter), f"%{ord(case(letter)):02x}", quote(f"%{ord(letter):02X}")])
        )
    assert normal_path(f"/{spelled}") == f"/{''.join(letters)}"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("hostile", ["%25", "/..", "%2e%2e%2f", ";", "a/", "\\", "%", "@", ":", "[", ". "])
def test_no_value_takes_longer_than_its_length(hostile: str) -> None:
    text = hostile * (200_000 // len(hostile))
    normal_path(text)
    normal_host(text)


FILE = """
domain: d
descriptors:
  - key: path
    value: /login
    normalise: path
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: path
    value: /reports/*
    normalise: path
    share_threshold: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: path
    normalise: path
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: tenant
    descriptors:
      - key: host
        normalise: host
        rate_limit: {unit: day, requests_per_unit: 1}
      - key: path
        rate_limit: {unit: day, requests_per_unit: 1}
"""


@pytest.fixture(scope="module")
def limits() -> CompiledLimits:
    return compile_limits([parse(FILE)], Options())


def name(limits: CompiledLimits, *entries: tuple[str, str]) -> str:
    found = match(limits.domains["d"], entries)
    assert found is not None
    assert found.rule.bucket is not None
    return f"{found.rule.key} {bucket_key('d', found.rule.bucket, found.counted)}"


@pytest.mark.parametrize("spelled", PATHS)
def test_every_spelling_falls_under_the_rule_of_its_value(limits: CompiledLimits, spelled: str) -> None:
    assert name(limits, ("path", spelled)) == name(limits, ("path", "/login"))
    assert name(limits, ("path", spelled)).startswith("d.path_/login ")


def test_every_spelling_falls_under_a_wildcard_and_under_any_value(limits: CompiledLimits) -> None:
    assert name(limits, ("path", "//REPORTS/7")) == name(limits, ("path", "/reports/8?x"))
    assert name(limits, ("path", "/Else")) == name(limits, ("path", "/else/"))
    assert name(limits, ("path", "/else")) != name(limits, ("path", "/other"))


def test_it_holds_at_its_level_and_for_its_key(limits: CompiledLimits) -> None:
    first = name(limits, ("tenant", "A"), ("host", "H.example:1"))
    assert first == name(limits, ("tenant", "A"), ("host", "h.example"))
    assert first != name(limits, ("tenant", "a"), ("host", "h.example"))
    assert name(limits, ("tenant", "A"), ("path", "/A")) != name(limits, ("tenant", "A"), ("path", "/a"))


NOT_NORMAL = "'/Login/' is not normalised and would match nothing"
ALIKE = "descriptors of one key are normalised alike"


@pytest.mark.parametrize(
    ("descriptors", "problem"),
    [
        (
            "[{key: a, normalise: url}]",
            "<text>:2: descriptors[0].normalise: expected host or path or address, found 'url'",
        ),
        (
            "[{key: a, normalise: path, value: /Login/}]",
            f"<text>:2: descriptors[0].value: {NOT_NORMAL}; write '/login'",
        ),
        (
            "[{key: a, normalise: path}, {key: a, value: b}]",
            f"<text>:2: descriptors[1].key: {ALIKE}: 'a' has normalise: path in <text>:2",
        ),
        (
            "[{key: a}, {key: a, value: b, normalise: host}]",
            f"<text>:2: descriptors[1].normalise: {ALIKE}: 'a' has no normalise in <text>:2",
        ),
    ],
)
def test_what_could_match_nothing_is_refused(descriptors: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_limits([parse(f"domain: d\ndescriptors: {descriptors}\n")], Options())
    assert [str(one) for one in caught.value.problems] == [problem]
