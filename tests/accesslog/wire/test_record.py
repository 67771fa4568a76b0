import json

import orjson
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from hypothesis import given
from hypothesis import strategies as st

from accesslog.records.fields import FIELDS
from accesslog.wire.names import CIPHERS, FLAG_CODES, LOG_TYPES, METHODS, PROTOCOLS, TLS_VERSIONS
from accesslog.wire.record import http_record, tcp_record
from protos.accesslog_data_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    ResponseFlags,
    TCPAccessLogEntry,
    TLSProperties,
)
from protos.core_pb2 import RequestMethod
from tests.support.entries import ORIGIN, http_entry, tcp_entry


def full(message: Message, depth: int = 0) -> Message:
    """Return `message` with every field set, by reflection."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            if not field.is_repeated:
                values = {field.CPPTYPE_STRING: "x", field.CPPTYPE_BOOL: True, field.CPPTYPE_ENUM: 1}
                setattr(message, field.name, values.get(field.cpp_type, 7))
        elif field.message_type.GetOptions().map_entry:
            target = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                target["k"] = "v"
            elif field.name == "filter_metadata":
                target["ns"].update({"k": "v"})
            else:
                target["k"].Pack(StringValue(value="v"))
        elif field.is_repeated:
            full(getattr(message, field.name).add(), depth + 1)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            full(child, depth + 1)
    return message


class TestNames:
    def test_every_field_of_a_record_is_documented(self) -> None:
        http = full(HTTPAccessLogEntry())
        tcp = full(TCPAccessLogEntry())
        assert isinstance(http, HTTPAccessLogEntry)
        assert isinstance(tcp, TCPAccessLogEntry)
        origin = {**ORIGIN, "node_region": "eu", "node_zone": "a"}
        names = http_record(http, origin, 0).keys() | tcp_record(tcp, origin, 0).keys()
        assert names <= FIELDS.keys()

    def test_every_documented_field_has_a_source(self) -> None:
        """Every documented field can occur in a record."""
        http = full(HTTPAccessLogEntry(), 0)
        tcp = full(TCPAccessLogEntry(), 0)
        assert isinstance(http, HTTPAccessLogEntry)
        assert isinstance(tcp, TCPAccessLogEntry)
        http.request.path = http.request.original_path = "/a?b"
        origin = {**ORIGIN, "node_region": "eu", "node_zone": "a"}
        names = http_record(http, origin, 0).keys() | tcp_record(tcp, origin, 0).keys()
        later = {"redacted", "not_utf8", "truncated", "sample_rate", "receive_time"}
        joined = {name for name in FIELDS if name.startswith(("authz_", "ratelimit_"))}
        # full() sets the last member of a oneof, so addresses are internal ones, without an IP.
        assert FIELDS.keys() - names - later - joined == {"client_ip"}

    def test_every_field_has_the_kind_its_documentation_states(self) -> None:
        http = full(HTTPAccessLogEntry())
        assert isinstance(http, HTTPAccessLogEntry)
        kinds = {"text": str, "integer": int, "number": float, "boolean": bool, "list": list, "map": dict}
        record = json.loads(orjson.dumps(http_record(http, ORIGIN, 0)))
        for name, value in record.items():
            assert type(value) is kinds[FIELDS[name][0]], name

    def test_every_response_flag_has_a_short_code(self) -> None:
        assert set(FLAG_CODES) == {field.name for field in ResponseFlags.DESCRIPTOR.fields}
        assert len(set(FLAG_CODES.values())) == len(FLAG_CODES)

    @pytest.mark.parametrize(
        ("names", "enum"),
        [
            (METHODS, RequestMethod),
            (LOG_TYPES, AccessLogType),
            (PROTOCOLS, HTTPAccessLogEntry.HTTPVersion),
            (TLS_VERSIONS, TLSProperties.TLSVersion),
        ],
    )
    def test_every_number_of_an_enum_has_a_name(self, names: dict[int, str], enum: object) -> None:
        numbers = {number for number in enum.values() if number}  # type: ignore[attr-defined]
        assert set(names) == numbers

    def test_cipher_names_are_spelled_as_iana_does(self) -> None:
        assert all(name.startswith("TLS_") for name in CIPHERS.values())


class TestTime:
    def test_is_rfc_3339_with_microseconds_in_utc(self) -> None:
        assert http_record(http_entry(), ORIGIN, 0)["time"] == "2026-09-21T14:13:20.123456Z"

    def test_is_the_time_of_receipt_where_envoy_gave_none(self) -> None:
        assert (
            http_record(HTTPAccessLogEntry(), {}, 1_790_000_000.25)["time"] == "2026-09-21T14:13:20.250000Z"
        )

    @pytest.mark.parametrize("seconds", [253_402_300_800, -62_135_596_801, 2**62])
    def test_outside_the_years_1_to_9999_is_an_error(self, seconds: int) -> None:
        """timestamp.proto: from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z."""
        entry = HTTPAccessLogEntry()
        entry.common_properties.start_time.seconds = seconds
        with pytest.raises(ValueError, match=r"start_time\.seconds"):
            http_record(entry, {}, 0)

    @pytest.mark.parametrize("nanos", [-1, 1_000_000_000])
    def test_with_nanos_beyond_a_second_is_an_error(self, nanos: int) -> None:
        entry = HTTPAccessLogEntry()
        entry.common_properties.start_time.nanos = nanos
        with pytest.raises(ValueError, match="nanos"):
            http_record(entry, {}, 0)

    def test_durations_are_microseconds(self) -> None:
        entry = http_entry()
        entry.common_properties.time_to_last_rx_byte.seconds = 2
        entry.common_properties.time_to_last_rx_byte.nanos = 5_000
        record = http_record(entry, ORIGIN, 0)
        assert record["duration_us"] == 7654
        assert record["time_to_last_rx_byte_us"] == 2_000_005
        assert "time_to_last_upstream_rx_byte_us" not in record


class TestHttp:
    def test_the_query_stands_apart_from_the_path(self) -> None:
        record = http_record(http_entry(path="/a/b?x=1?y", original_path="/o?q=2"), ORIGIN, 0)
        assert (record["path"], record["query"]) == ("/a/b", "x=1?y")
        assert (record["original_path"], record["original_query"]) == ("/o", "q=2")

    def test_a_path_without_a_query_brings_none(self) -> None:
        record = http_record(http_entry(path="/a"), ORIGIN, 0)
        assert record["path"] == "/a"
        assert "query" not in record

    def test_no_response_is_code_0(self) -> None:
        assert http_record(HTTPAccessLogEntry(), {}, 0)["code"] == 0

    def test_flags_are_envoys_short_codes_in_the_order_of_their_numbers(self) -> None:
        flags = ResponseFlags(upstream_connection_failure=True, upstream_retry_limit_exceeded=True)
        assert http_record(http_entry(flags=flags), ORIGIN, 0)["response_flags"] == ("UF", "URX")

    def test_a_denial_by_ext_authz_is_flagged_uaex(self) -> None:
        flags = ResponseFlags()
        flags.unauthorized_details.reason = ResponseFlags.Unauthorized.EXTERNAL_SERVICE
        assert http_record(http_entry(flags=flags), ORIGIN, 0)["response_flags"] == ("UAEX",)

    def test_an_enum_value_newer_than_this_program_appears_as_its_number(self) -> None:
        entry = http_entry()
        entry.common_properties.access_log_type = 99  # type: ignore[assignment]
        assert http_record(entry, ORIGIN, 0)["access_log_type"] == "99"

    def test_the_stream_it_came_on_is_named_in_each_record(self) -> None:
        assert http_record(http_entry(), ORIGIN, 0).items() >= ORIGIN.items()


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "port", "text"),
        [("203.0.113.9", 443, "203.0.113.9:443"), ("2001:db8::1", 80, "[2001:db8::1]:80")],
    )
    def test_an_ip_address_carries_its_port(self, host: str, port: int, text: str) -> None:
        entry = HTTPAccessLogEntry()
        address = entry.common_properties.downstream_remote_address.socket_address
        address.address, address.port_value = host, port
        record = http_record(entry, {}, 0)
        assert record["downstream_remote_address"] == text
        assert record["client_ip"] == host

    def test_a_pipe_is_named_by_its_path(self) -> None:
        entry = HTTPAccessLogEntry()
        entry.common_properties.upstream_remote_address.pipe.path = "/run/app.sock"
        assert http_record(entry, {}, 0)["upstream_remote_address"] == "unix:/run/app.sock"

    def test_an_internal_listener_is_named_with_its_endpoint(self) -> None:
        entry = HTTPAccessLogEntry()
        internal = entry.common_properties.upstream_remote_address.envoy_internal_address
        internal.server_listener_name, internal.endpoint_id = "inner", "7"
        assert http_record(entry, {}, 0)["upstream_remote_address"] == "envoy://inner/7"


class TestTls:
    def test_version_cipher_name_and_certificates_are_spelled_out(self) -> None:
        entry = http_entry()
        tls = entry.common_properties.tls_properties
        tls.tls_version = TLSProperties.TLSv1_2
        tls.tls_cipher_suite.value = 0xC02F
        tls.tls_sni_hostname = "api.example.com"
        tls.peer_certificate_properties.subject = "CN=client"
        tls.peer_certificate_properties.subject_alt_name.add(uri="spiffe://a/b")
        tls.peer_certificate_properties.subject_alt_name.add(dns="client.example")
        record = http_record(entry, ORIGIN, 0)
        assert record["tls_version"] == "TLSv1.2"
        assert record["tls_cipher"] == "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
        assert record["tls_sni"] == "api.example.com"
        assert record["tls_peer_subject"] == "CN=client"
        assert record["tls_peer_san"] == ["uri:spiffe://a/b", "dns:client.example"]

    def test_an_unknown_cipher_is_its_number(self) -> None:
        entry = http_entry()
        entry.common_properties.tls_properties.tls_cipher_suite.value = 0xC0AC
        assert http_record(entry, ORIGIN, 0)["tls_cipher"] == "0xC0AC"


class TestMetadata:
    def test_of_authz_becomes_fields(self) -> None:
        result = {
            "decision_id": "01J",
            "rule": "orders-read",
            "policy_revision": "abc",
            "subject": "alice",
            "outcome": "allow",
            "reason": "rule",
            "credential": "jwt",
            "shadow_outcome": "deny",
            "shadow_rule": "orders-strict",
            "ext_authz_duration": 3,
        }
        record = http_record(http_entry(metadata={"envoy.filters.http.ext_authz": result}), ORIGIN, 0)
        found = {name: value for name, value in record.items() if name.startswith("authz_")}
        assert found == {
            "authz_decision_id": "01J",
            "authz_rule": "orders-read",
            "authz_policy_revision": "abc",
            "authz_subject": "alice",
            "authz_outcome": "allow",
            "authz_reason": "rule",
            "authz_credential": "jwt",
            "authz_shadow_outcome": "deny",
            "authz_shadow_rule": "orders-strict",
        }
        assert "metadata" not in record

    def test_how_long_envoy_waited_for_authz_comes_as_a_tag(self) -> None:
        record = http_record(http_entry(tags={"authz_duration_us": "412", "tier": "gold"}), ORIGIN, 0)
        assert (record["authz_duration_us"], record["tags"]) == (412, {"tier": "gold"})
        assert "tags" not in http_record(http_entry(tags={"authz_duration_us": "0"}), ORIGIN, 0)

    @pytest.mark.parametrize("value", ["", "-", "1.5", "-1", "\u0664", "9" * 16])
    def test_a_tag_of_that_name_that_is_not_a_duration_stays_a_tag(self, value: str) -> None:
        record = http_record(http_entry(tags={"authz_duration_us": value}), ORIGIN, 0)
        assert record["tags"] == {"authz_duration_us": value}
        assert "authz_duration_us" not in record

    def test_of_ratelimit_becomes_fields(self) -> None:
        descriptor = {"entries": ["user=alice"], "limit": {"unit": "SECOND"}}
        result = {
            "domain": "edge",
            "outcome": "over_limit",
            "rule": "edge.user",
            "limit": 5,
            "period": "1m",
            "remaining": 0,
            "reason": "shadow",
            "revision": "abc",
            "metadata": {"tier": "gold"},
            "descriptors": [descriptor],
            "hitsAddend": 2,
        }
        record = http_record(http_entry(metadata={"envoy.filters.http.ratelimit": result}), ORIGIN, 0)
        found = {name: value for name, value in record.items() if name.startswith("ratelimit_")}
        assert found == {
            "ratelimit_domain": "edge",
            "ratelimit_outcome": "over_limit",
            "ratelimit_rule": "edge.user",
            "ratelimit_limit": 5,
            "ratelimit_period": "1m",
            "ratelimit_remaining": 0,
            "ratelimit_reason": "shadow",
            "ratelimit_revision": "abc",
            "ratelimit_metadata": {"tier": "gold"},
            "ratelimit_descriptors": [descriptor],
            "ratelimit_hits": 2,
        }

    def test_of_other_filters_stays_in_its_namespace(self) -> None:
        result = {"x": [1, 2.5, True, None, {"y": "z"}]}
        record = http_record(http_entry(metadata={"my.filter": result}), ORIGIN, 0)
        assert record["metadata"] == {"my.filter": result}

    def test_of_authz_beyond_the_known_keys_stays_in_its_namespace(self) -> None:
        result = {"rule": "r", "extra": "e"}
        record = http_record(http_entry(metadata={"envoy.filters.http.ext_authz": result}), ORIGIN, 0)
        assert record["authz_rule"] == "r"
        assert record["metadata"] == {"envoy.filters.http.ext_authz": {"extra": "e"}}

    @given(st.floats())
    def test_any_number_can_be_written_as_json(self, number: float) -> None:
        record = http_record(http_entry(metadata={"f": {"n": number}}), ORIGIN, 0)
        orjson.loads(orjson.dumps(record))

    def test_filter_state_of_a_known_type_is_its_value_and_of_another_its_bytes(self) -> None:
        entry = HTTPAccessLogEntry()
        objects = entry.common_properties.filter_state_objects
        objects["text"].Pack(StringValue(value="v"))
        objects["bytes"].Pack(BytesValue(value=b"\xff"))
        objects["other"].Pack(AccessLogCommon(route_name="r"))
        objects["broken"].type_url = "type.googleapis.com/google.protobuf.StringValue"
        objects["broken"].value = b"\xff"
        state = http_record(entry, {}, 0)["filter_state"]
        assert state["text"] == "v"
        assert state["bytes"] == "/w=="
        assert state["other"] == {
            "@type": "type.googleapis.com/envoy.data.accesslog.v3.AccessLogCommon",
            "base64": "mgEBcg==",
        }
        assert state["broken"]["base64"] == "/w=="


def test_a_tcp_entry_tells_its_bytes_and_type() -> None:
    record = tcp_record(tcp_entry(10, 20), ORIGIN, 0)
    assert (record["type"], record["received_bytes"], record["sent_bytes"]) == ("tcp", 10, 20)
    assert record["access_log_type"] == "TcpConnectionEnd"
    assert record["tls_version"] == "TLSv1.3"
    assert "code" not in record
