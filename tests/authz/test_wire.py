import pytest
from google.protobuf.message import DecodeError

from authz.wire import (
    allow_response,
    denied,
    head_of,
    headers_removed,
    http_of,
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
    method, host, path, lines = head_of(http_of(read_request(written.SerializeToString())))
    assert (method, host, path) == ("GET", "a.example", "/x?y")
    assert [(line.key, line.raw_value) for line in lines] == [("accept", b"*/*")]


def test_a_path_with_bytes_that_are_not_utf_8_is_read_with_escapes() -> None:
    message = write_request("GET", "a.example", "/UTF8/x").SerializeToString()
    assert head_of(http_of(read_request(message.replace(b"UTF8", b"\xff\xfe\xff\xfe"))))[2] == (
        "/%FF%FE%FF%FE/x"
    )


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
