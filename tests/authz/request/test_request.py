import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.request.host import MAX_HOST_CHARACTERS, MalformedHostError, canonical_host
from authz.request.path import MAX_PATH_CHARACTERS, PathAnomaly
from authz.request.request import (
    MAX_QUERY_PARAMETERS,
    BadRequestError,
    BadRequestReason,
    Request,
)
from protos.authz_pb2 import CheckRequest
from tests.support.checks import check_request, request


def refusal(**parts: object) -> BadRequestReason:
    with pytest.raises(BadRequestError) as caught:
        request(**parts)  # type: ignore[arg-type]
    return caught.value.reason


class TestHost:
    @pytest.mark.parametrize(
        ("host", "canonical"),
        [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM", "api.example.com"),
            ("api.example.com:8443", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("localhost", "localhost"),
            ("my_service", "my_service"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ],
    )
    def test_one_spelling_is_left(self, host: str, canonical: str) -> None:
        """CVE-2021-39155: a host is compared without case, port and trailing dot."""
        assert request(host=host).host == canonical

    @pytest.mark.parametrize(
        "host",
        [
            "",
            ".",
            "a..b",
            "a.example,b.example",
            "user@a.example",
            "user:pass@a.example",
            "a.example..",
            "a.example:http",
            "a.example:123456",
            "a example",
            "a.example/x",
            "bücher.example",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[127.0.0.1]",
            "::1",
            "a\0.example",
            "a" * 64 + ".example",
        ],
    )
    def test_what_is_not_a_single_host_is_refused(self, host: str) -> None:
        assert refusal(host=host) is BadRequestReason.HOST

    def test_a_host_longer_than_any_name_is_refused(self) -> None:
        assert refusal(host="a." * MAX_HOST_CHARACTERS + "com") is BadRequestReason.HOST

    @given(st.text())
    def test_canonical_is_a_fixed_point(self, host: str) -> None:
        try:
            canonical = canonical_host(host)
        except MalformedHostError:
            return
        assert canonical_host(canonical) == canonical


class TestDuplicates:
    def test_cve_2021_32777_two_authorization_headers_are_refused(self) -> None:
        headers = [("authorization", "Bearer a"), ("authorization", "Bearer b")]
        assert refusal(headers=headers) is BadRequestReason.DUPLICATE_AUTHORIZATION

    @pytest.mark.parametrize(
        "value", ["Bearer a,Bearer b", "Basic YQ==, Bearer b", 'Digest a="x, y z", b=c,Bearer d']
    )
    @pytest.mark.parametrize("form", [dict, list])
    def test_two_that_envoy_joined_are_refused(self, value: str, form: type) -> None:
        """Envoy joins repeated lines of this header even under encode_raw_headers."""
        headers = form([("authorization", value)])
        assert refusal(headers=headers) is BadRequestReason.DUPLICATE_AUTHORIZATION

    @pytest.mark.parametrize("value", ["Bearer a", 'Digest a="x, y z", b = c, d=e', "Bearer a,", ""])
    def test_one_with_commas_does_not_count_as_two(self, value: str) -> None:
        assert request(headers={"authorization": value}).header_values("authorization") == (value,)

    @pytest.mark.parametrize("second", [":authority", "host"])
    def test_two_hosts_are_refused(self, second: str) -> None:
        headers = [(":authority", "api.example.com"), (second, "api.example.com")]
        assert refusal(headers=headers) is BadRequestReason.DUPLICATE_HOST

    def test_another_host_in_the_header_map_is_refused(self) -> None:
        assert refusal(headers={"host": "evil.example"}) is BadRequestReason.DUPLICATE_HOST

    def test_the_same_host_in_the_header_map_is_not_a_duplicate(self) -> None:
        assert request(headers={"host": "API.example.com:443"}).host == "api.example.com"


class TestPath:
    def test_cve_2026_32811_the_query_sits_inside_the_path(self) -> None:
        asked = request(path="/a?x=1?y")
        assert (asked.path.segments, asked.query) == (("a",), "x=1?y")

    @pytest.mark.parametrize("path", ["", "*", "http://a.example/x", "a/b", "?x"])
    def test_a_path_begins_with_a_slash(self, path: str) -> None:
        """CONNECT and `OPTIONS *` name no resource that a rule could match."""
        assert refusal(path=path) is BadRequestReason.PATH_FORM

    def test_a_path_has_a_greatest_length(self) -> None:
        assert refusal(path="/" * (MAX_PATH_CHARACTERS + 1)) is BadRequestReason.PATH_LENGTH

    @pytest.mark.parametrize("path", ["/a#b", "/a?x#b"])
    def test_cve_2021_32779_a_fragment_is_odd_wherever_it_stands(self, path: str) -> None:
        assert PathAnomaly.FRAGMENT in request(path=path).path.oddities

    def test_a_request_has_a_method(self) -> None:
        assert refusal(method="") is BadRequestReason.METHOD

    @pytest.mark.parametrize("method", ["delete", "Delete", "dELETE", "123"])
    def test_a_method_in_other_letter_case_is_refused(self, method: str) -> None:
        """Django and Symfony take it for DELETE: a deny rule about DELETE would not see it."""
        assert refusal(method=method) is BadRequestReason.METHOD_CASE

    def test_a_method_may_be_of_any_upper_case_name(self) -> None:
        assert request("M-SEARCH").method == "M-SEARCH"


class TestHeaders:
    def test_every_value_of_a_repeated_header_is_seen(self) -> None:
        asked = request(headers=[("x-tag", "a"), ("accept", "*/*"), ("x-tag", "b")])
        assert list(asked.header_values("x-tag")) == ["a", "b"]

    def test_a_map_has_one_value_a_name(self) -> None:
        assert list(request(headers={"x-tag": "a,b"}).header_values("x-tag")) == ["a,b"]

    @pytest.mark.parametrize("headers", [{}, [], {"a": "b"}, [("a", "b")]])
    def test_an_absent_header_has_no_values(self, headers: object) -> None:
        assert not request(headers=headers).header_values("x-tag")  # type: ignore[arg-type]

    def test_cve_2023_27488_bytes_that_are_not_utf8_can_be_read(self) -> None:
        asked = request(headers=[("x-tag", b"\xff\xfe")])
        assert list(asked.header_values("x-tag")) == ["\xff\xfe"]

    @pytest.mark.parametrize("value", [" admin", "admin ", "\tadmin \t"])
    def test_blanks_around_a_value_are_not_part_of_it(self, value: str) -> None:
        for headers in ({"x-role": value}, [("x-role", value)]):
            asked = request(headers=headers)
            assert list(asked.header_values("x-role")) == ["admin"]
            assert asked.all_headers()["x-role"] == ["admin"]
        assert list(request(headers=[("x-role", "\xa0a")]).header_values("x-role")) == ["\xc2\xa0a"]

    def test_both_forms_of_headers_read_alike(self) -> None:
        as_map, as_lines = request(headers={"x-tag": "é"}), request(headers=[("x-tag", "é")])
        assert list(as_map.header_values("x-tag")) == list(as_lines.header_values("x-tag"))

    def test_a_line_may_come_as_text(self) -> None:
        message = check_request()
        message.attributes.request.http.header_map.headers.add(key="x-tag", value="a")
        assert list(Request(message).header_values("x-tag")) == ["a"]

    def test_every_cookie_of_a_name_is_seen_over_all_lines(self) -> None:
        asked = request(headers=[("cookie", "s=1; t=2; s=3"), ("cookie", "s=4=5;ss=6")])
        assert list(asked.cookie_values("s")) == ["1", "3", "4=5"]

    def test_every_value_of_a_query_parameter_is_seen_decoded(self) -> None:
        asked = request(path="/a?x=1&y=2&x=%41+b&&z&x")
        assert list(asked.query_values("x")) == ["1", "A b", ""]
        assert list(asked.query_values("z")) == [""]
        assert not asked.query_values("w")
        assert not request(path="/a").query_values("x")

    def test_query_parameters_beyond_the_bound_do_not_count(self) -> None:
        asked = request(path="/a?" + "x=1&" * MAX_QUERY_PARAMETERS + "y=2")
        assert len(asked.query_values("x")) == MAX_QUERY_PARAMETERS
        assert not asked.query_values("y")


class TestClientAddress:
    @pytest.mark.parametrize(
        ("hops", "forwarded", "client"),
        [
            (0, "203.0.113.9", "192.0.2.1"),
            (0, "", "192.0.2.1"),
            # Envoy appended the peer (use_remote_address).
            (1, "203.0.113.9, 192.0.2.1", "203.0.113.9"),
            (1, "spoofed, 203.0.113.9, 192.0.2.1", "203.0.113.9"),
            (2, "203.0.113.9, 198.51.100.7, 192.0.2.1", "203.0.113.9"),
            # Envoy did not.
            (1, "1.1.1.1, 203.0.113.9", "203.0.113.9"),
            # Around the trusted hops.
            (1, "", "192.0.2.1"),
            (1, "192.0.2.1", "192.0.2.1"),
            (3, "203.0.113.9, 192.0.2.1", "192.0.2.1"),
            # A trusted hop wrote no address.
            (1, "unknown, 192.0.2.1", ""),
            (1, "2001:DB8:0::9, 192.0.2.1", "2001:db8::9"),
        ],
    )
    def test_the_client_is_counted_from_the_right(self, hops: int, forwarded: str, client: str) -> None:
        """As Envoy's xff_num_trusted_hops; what is further left is whatever the client wrote."""
        asked = request(headers={"x-forwarded-for": forwarded} if forwarded else {}, trusted_hops=hops)
        assert asked.client_address == client

    def test_lines_of_the_header_make_one_chain(self) -> None:
        headers = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ]
        assert request(headers=headers, trusted_hops=1).client_address == "203.0.113.9"


def test_cve_2023_27487_and_cve_2026_40575_forged_headers_move_nothing() -> None:
    """Decisions rest on attributes that Envoy filled in, whatever headers claim."""
    forged = {
        "x-envoy-original-path": "/public",
        "x-forwarded-uri": "/public",
        "x-original-url": "/public",
        "x-forwarded-host": "public.example",
        "x-forwarded-method": "OPTIONS",
        "x-http-method-override": "OPTIONS",
        "x-real-ip": "203.0.113.9",
    }
    asked = request("DELETE", "/admin", headers=forged)
    assert (asked.method, asked.host, asked.raw_path) == ("DELETE", "api.example.com", "/admin")
    assert asked.client_address == "192.0.2.1"


def test_grpc_callers_may_leave_out_most_attributes() -> None:
    """By gRFC A92: no id, scheme, body, context extensions, metadata or TLS session."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path = "POST", "api.example.com", "/pkg.Service/Method"
    asked = Request(message)
    assert asked.path.segments == ("pkg.Service", "Method")
    assert (asked.peer_principal, asked.client_address, asked.source_address) == ("", "", "")


@given(st.binary())
def test_any_message_is_read_or_refused(data: bytes) -> None:
    message = CheckRequest()
    message.attributes.request.http.method = "GET"
    message.attributes.request.http.host = "a.example"
    message.attributes.request.http.path = "/" + data.decode("latin-1")
    try:
        asked = Request(message)
    except BadRequestError:
        return
    assert asked.path.segments


def test_header_names_are_listed_once_in_either_encoding() -> None:
    assert sorted(request(headers={"a": "1", "b": "2"}).header_names) == ["a", "b"]
    assert sorted(request(headers=[("a", "1"), ("b", "2"), ("a", "3")]).header_names) == ["a", "b"]
