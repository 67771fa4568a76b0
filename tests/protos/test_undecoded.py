"""Types in which some fields stay bytes read and write the same messages."""

from google.protobuf.descriptor import FieldDescriptor

from authz.wire import read_request, write_request
from protos.authz_pb2 import AttributeContext, CheckRequest
from protos.undecoded import undecoded


def test_a_field_is_left_as_bytes_and_the_rest_is_read() -> None:
    written = write_request("GET", "a.example", "/x", client="192.0.2.1", headers={"accept": "*/*"})
    kind = undecoded(CheckRequest, {"envoy.service.auth.v3.AttributeContext.source"})
    read = kind.FromString(written.SerializeToString())
    assert AttributeContext.Peer.FromString(read.attributes.source) == written.attributes.source
    assert dict(read.attributes.request.http.headers) == {"accept": "*/*"}
    assert CheckRequest.FromString(read.SerializeToString()) == written


def test_a_field_of_a_nested_type_is_left_as_bytes() -> None:
    kind = undecoded(CheckRequest, {"envoy.service.auth.v3.AttributeContext.HttpRequest.header_map"})
    written = write_request("GET", "a.example", "/", lines=[("accept", b"*/*")])
    header_map = kind.FromString(written.SerializeToString()).attributes.request.http.header_map
    assert header_map == written.attributes.request.http.header_map.SerializeToString()


def test_a_check_is_read_without_the_parts_that_few_policies_need() -> None:
    attributes = read_request(b"").attributes.DESCRIPTOR
    left = {field.name for field in attributes.fields if field.type == FieldDescriptor.TYPE_BYTES}
    assert left == {"source", "destination", "metadata_context", "tls_session", "route_metadata_context"}


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    """Only a parser of submessages merges the two."""
    kind = undecoded(AttributeContext, {f"{AttributeContext.DESCRIPTOR.full_name}.source"})
    sources = [AttributeContext.Peer(service="a"), AttributeContext.Peer(principal="b")]
    message = b"".join(AttributeContext(source=source).SerializeToString() for source in sources)
    assert AttributeContext.Peer.FromString(kind.FromString(message).source) == sources[1]
