"""A record of an entry with bytes that are not UTF-8 is complete and says which fields have them."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

from accesslog.wire.entry import HTTP, record_of
from accesslog.wire.record import http_record
from protos.accesslog_data_pb2 import HTTPAccessLogEntry
from tests.support.entries import ORIGIN, http_entry

TEXT = "#8#\\b"
"""Replaced by `ODD`, which has the same length, in the bytes of an entry."""

ODD = b"a\xe9z\\b"
SHOWN = r"a\xe9z\\b"


def record_with(entry: HTTPAccessLogEntry) -> dict[str, Any]:
    data = entry.SerializeToString()
    assert TEXT.encode() in data
    return record_of(HTTP, data.replace(TEXT.encode(), ODD), ORIGIN, 0)


@pytest.mark.parametrize(
    ("field", "places"),
    [
        ("request.request_id", ["request_id"]),
        ("request.scheme", ["scheme"]),
        ("request.authority", ["authority"]),
        ("request.path", ["path"]),
        ("request.original_path", ["original_path"]),
        ("request.user_agent", ["user_agent"]),
        ("request.referer", ["referer"]),
        ("request.forwarded_for", ["forwarded_for"]),
        ("response.response_code_details", ["code_details"]),
        ("common_properties.stream_id", ["stream_id"]),
        ("common_properties.route_name", ["route"]),
        ("common_properties.upstream_cluster", ["cluster"]),
        ("common_properties.upstream_transport_failure_reason", ["upstream_transport_failure_reason"]),
        ("common_properties.downstream_transport_failure_reason", ["downstream_transport_failure_reason"]),
        ("common_properties.connection_termination_details", ["connection_termination_details"]),
        ("common_properties.tls_properties.tls_sni_hostname", ["tls_sni"]),
        ("common_properties.tls_properties.tls_session_id", ["tls_session_id"]),
        ("common_properties.tls_properties.ja3_fingerprint", ["tls_ja3"]),
        ("common_properties.tls_properties.peer_certificate_properties.subject", ["tls_peer_subject"]),
        ("common_properties.tls_properties.peer_certificate_properties.issuer", ["tls_peer_issuer"]),
        ("common_properties.tls_properties.local_certificate_properties.subject", ["tls_local_subject"]),
    ],
)
def test_a_text_of_the_entry(field: str, places: list[str]) -> None:
    entry = http_entry()
    *path, name = field.split(".")
    message: Any = entry
    for part in path:
        message = getattr(message, part)
    setattr(message, name, TEXT)
    record = record_with(entry)
    assert (record[places[0]], record["not_utf8"]) == (SHOWN, places)
    assert record["code"] == 200


@pytest.mark.parametrize("where", ["request_headers", "response_headers", "response_trailers", "tags"])
def test_the_values_and_the_names_of_a_map(where: str) -> None:
    maps: dict[str, Any] = {where: {"x": TEXT, TEXT: "\\", "y": "\\"}}
    record = record_with(http_entry(**maps))
    # A value with such a name is escaped like the name: the place names both.
    assert record[where] == {"x": SHOWN, SHOWN: r"\\", "y": "\\"}
    assert sorted(record["not_utf8"]) == [f"{where}.{SHOWN}", f"{where}.x"]


def test_a_name_that_spells_an_odd_one_takes_no_place_of_it() -> None:
    plain = r"a\xe9z\\b"
    record = record_with(http_entry(tags={TEXT: "odd", plain: "plain\\", "x": "\\"}))
    escaped = plain.replace("\\", "\\\\")
    assert record["tags"] == {SHOWN: "odd", escaped: r"plain\\", "x": "\\"}
    assert sorted(record["not_utf8"]) == sorted([f"tags.{SHOWN}", f"tags.{escaped}"])


def test_metadata_at_any_depth() -> None:
    result = {"a": [{"b": TEXT}, TEXT], TEXT: 1}
    record = record_with(http_entry(metadata={"my.filter": result}))
    assert record["metadata"]["my.filter"] == {"a": [{"b": SHOWN}, SHOWN], SHOWN: 1}
    assert sorted(record["not_utf8"]) == [
        "metadata.my.filter.a",
        "metadata.my.filter.a.b",
        f"metadata.my.filter.{SHOWN}",
    ]


def test_what_authz_said_of_the_request() -> None:
    record = record_with(http_entry(metadata={"envoy.filters.http.ext_authz": {"subject": TEXT}}))
    assert (record["authz_subject"], record["not_utf8"]) == (SHOWN, ["authz_subject"])


def _struct(text: str) -> Struct:
    struct = Struct()
    struct.update({"token": text, "x": [text]})
    return struct


@pytest.mark.parametrize(
    ("make", "shown", "place"),
    [
        (lambda text: StringValue(value=text), SHOWN, "filter_state.key"),
        (_struct, {"token": SHOWN, "x": [SHOWN]}, "filter_state.key.token"),
    ],
    ids=["StringValue", "Struct"],
)
def test_a_packed_message(make: Callable[[str], Any], shown: Any, place: str) -> None:
    """Its bytes are not in a text field of the entry, so the parser accepts them."""
    entry = http_entry()
    packed = entry.common_properties.filter_state_objects["key"]
    packed.Pack(make(TEXT))
    packed.value = packed.value.replace(TEXT.encode(), ODD)
    record = record_of(HTTP, entry.SerializeToString(), ORIGIN, 0)
    assert record["filter_state"]["key"] == shown
    assert place in record["not_utf8"]


def test_a_packed_message_that_is_none_is_kept_as_it_came() -> None:
    entry = http_entry()
    packed = entry.common_properties.filter_state_objects["key"]
    packed.Pack(StringValue(value="x"))
    packed.value = b"\x0a\x7f"
    record = record_of(HTTP, entry.SerializeToString(), ORIGIN, 0)
    assert record["filter_state"]["key"]["base64"] == "Cn8="


def test_an_entry_without_such_bytes_is_the_same_read_either_way() -> None:
    entry = http_entry(path="/caf\u00e9\\x", tags={"t": "\U0010ffffFF"})
    assert record_of(HTTP, entry.SerializeToString(), ORIGIN, 0) == http_record(entry, ORIGIN, 0)


def test_no_text_passes_for_the_bytes_of_another() -> None:
    byte = record_with(http_entry(request_id=TEXT))
    text = http_record(http_entry(request_id=SHOWN), ORIGIN, 0)
    assert byte["request_id"] == text["request_id"]
    assert "not_utf8" not in text
