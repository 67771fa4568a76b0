import pytest
from google.protobuf.message import DecodeError

from authz.request.request import Request
from authz.wire import (
    MAX_PEER_BYTES,
    address_of,
    allow_response,
    attributes_of,
    denied,
    head_of,
    headers_removed,
    http_of,
    lines_of,
    overwriting,
    parameters_removed,
    read_request,
    read_response,
    refusal_headers_added,
    refusal_response,
    response_headers_added,
    write_request,
)


def test_a_request_is_read_as_it_was_written() -> None:
    written = write_request("GET", "a.example", "/x?y", lines=[("accept", b"*/*")])
    http = http_of(attributes_of(read_request(written.SerializeToString())))
    assert head_of(http) == ("GET", "a.example", "/x?y")
    assert [(line.key, line.raw_value) for line in lines_of(http)] == [("accept", b"*/*")]


@pytest.mark.parametrize("certificate", ["", "-----BEGIN%20CERTIFICATE-----" * 50])
def test_the_peer_is_read_when_it_is_needed(certificate: str) -> None:
    written = write_request("GET", "a.example", "/", client="192.0.2.1", principal="spiffe://a/b")
    written.attributes.source.certificate = certificate
    for check in (written, read_request(written.SerializeToString())):
        request = Request(check)
        assert (request.source_address, request.peer_principal) == ("192.0.2.1", "spiffe://a/b")
        assert address_of(request.peer_bytes) == "192.0.2.1"
        assert len(request.peer_bytes) <= MAX_PEER_BYTES


def test_a_principal_that_is_not_utf_8_differs_from_every_other() -> None:
    message = write_request("GET", "a.example", "/", principal="UTF8").SerializeToString()
    principals = {
        Request(read_request(message.replace(b"UTF8", bad))).peer_principal
        for bad in (b"\xff\xfe\xff\xfe", b"\xff\xfe\xff\xfd")
    }
    assert len(principals) == 2


def test_bytes_that_are_not_a_peer_have_no_address() -> None:
    assert address_of(b"\xff") == ""


def test_a_path_with_bytes_that_are_not_utf_8_is_read_with_escapes() -> None:
    message = write_request("GET", "a.example", "/UTF8/x").SerializeToString()
    assert head_of(http_of(attributes_of(read_request(message.replace(b"UTF8", b"\xff\xfe\xff\xfe")))))[
        2
    ] == ("/%FF%FE%FF%FE/x")


def test_bytes_that_are_not_a_check_request_are_refused() -> None:
    with pytest.raises(DecodeError):
        read_request(b"\xff")


def test_parts_of_an_allow_are_merged_into_it() -> None:
    whole = allow_response(
        {"rule": "r"},
        headers={"x-user": "alice"},
        removed_headers=["x-roles"],
        response_headers=[overwriting("x-a", "1")],
        query_set={"tenant": "acme"},
    )
    parts = headers_removed(["x_user"]), parameters_removed(["debug"])
    content = read_response(whole + b"".join(parts) + response_headers_added([overwriting("x-b", "2")]))
    assert (content.headers, content.removed_headers) == ({"x-user": "alice"}, ("x-roles", "x_user"))
    assert content.response_headers == {"x-a": "1", "x-b": "2"}
    assert (content.query_set, content.query_removed) == ({"tenant": "acme"}, ("debug",))
    assert content.metadata == {"rule": "r"}


@pytest.mark.parametrize("error", [True, False])
def test_headers_are_merged_into_a_refusal(error: bool) -> None:
    refusal = denied(403, {"x-a": "1"}, "no", set_cookies=["s="])
    whole = refusal_response(refusal, {}, code=7, reason="no_rule", error=error)
    content = read_response(whole + refusal_headers_added([overwriting("x-b", "2")], error=error))
    assert content.response_headers == {"x-a": "1", "set-cookie": "s=", "x-b": "2"}
    assert content.body == "no"
