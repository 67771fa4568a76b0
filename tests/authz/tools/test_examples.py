import pytest

from authz.request.request import Request
from authz.tools.examples import RequestExample


@pytest.mark.parametrize("value", ["acme", ["acme"]])
def test_a_list_of_one_value_is_that_value(value: str | list[str]) -> None:
    example = RequestExample.model_validate({"headers": {"x-tenant": value}})
    assert Request(example.message()).header_values("x-tenant") == ("acme",)


def test_a_header_with_several_values_is_sent_several_times() -> None:
    example = RequestExample.model_validate({"headers": {"x-tenant": ["acme", "other"]}, "path": "/a!b"})
    request = Request(example.message())
    assert request.header_values("x-tenant") == ["acme", "other"]
    assert not request.masks_bytes


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [("text", (), b"text"), ({"a": 1}, ("application/json",), b'{"a":1}')],
)
def test_a_body_is_sent_as_text_or_as_json(body: object, content_type: tuple[str, ...], sent: bytes) -> None:
    request = Request(RequestExample(body=body).message())
    assert (tuple(request.header_values("content-type")), request.body) == (content_type, sent)
