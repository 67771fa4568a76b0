"""Bytes that are not UTF-8 escape no limit and keep no request out of the access log.

envoyproxy/envoy#22996, #32607, #5141: Envoy copies bytes from clients into text fields, and a proto3 parser
rejects the whole message for one invalid byte. A request with a rejected rate-limit call passes
(`failure_mode_deny: false`); a rejected entry is not written.
"""

from typing import Any

import pytest

from sidecars.demo.demo import log_lines
from sidecars.demo.edge import Edge
from tests.support.attacks.edges import LISTENERS, PLAIN, serve_both
from tests.support.bare_envoy import send

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(180)]

HEADER, QUERY, SHARED = "/public/header", "/public/query", "/public/shared"

LIMITS = """
  - {key: tenant, rate_limit: {unit: day, requests_per_unit: 2, algorithm: fixed_window}}
  - {key: shared, value: "yes", rate_limit: {unit: day, requests_per_unit: 2, algorithm: fixed_window}}
"""


def limit_by_client_bytes(manager: dict[str, Any]) -> None:
    def header(descriptor_key: str) -> dict[str, Any]:
        return {"request_headers": {"header_name": "x-tenant", "descriptor_key": descriptor_key}}

    query = {"query_parameters": {"query_parameter_name": "tenant", "descriptor_key": "tenant"}}
    shared = {"generic_key": {"descriptor_key": "shared", "descriptor_value": "yes"}}
    [host] = manager["route_config"]["virtual_hosts"]
    host["rate_limits"] = []
    host["routes"] = [
        {"match": {"prefix": path}, "route": {"cluster": "upstream", "rate_limits": limits}}
        for path, limits in (
            (HEADER, [{"actions": [header("tenant")]}]),
            (QUERY, [{"actions": [query]}]),
            (SHARED, [{"actions": [shared]}, {"actions": [header("other")]}]),
        )
    ]


@pytest.mark.parametrize("listener", LISTENERS)
async def test_no_limit_is_escaped(listener: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with serve_both(tmp_path_factory.mktemp("e"), limit_by_client_bytes, LIMITS) as edge:

        async def statuses(path: str, *values: bytes) -> list[int]:
            answers = [await send(edge, path, [("x-tenant", value)], listener=listener) for value in values]
            return [answer.status for answer in answers]

        # By header: each value has its own bucket, even if values differ only in such bytes.
        for value in (b"a\xff", b"a\xfe", b"a\xff\xff", b"\xe9", b"a\\xff"):
            assert await statuses(HEADER, value, value, value) == [200, 200, 429], value
        # By query: Envoy decodes the escapes.
        for escapes in ("%ff", "q%ff", "%c3%28"):
            assert await statuses(f"{QUERY}?tenant={escapes}", b"", b"", b"") == [200, 200, 429], escapes
        # Such a byte in one descriptor also disabled the other descriptors of the call.
        assert await statuses(SHARED, b"\xff", b"\xfe", b"\xfd", b"\xfc") == [200, 200, 429, 429]
        assert await edge.admin.metric("ratelimit_service_should_rate_limit_error") == 0


def log_client_bytes(manager: dict[str, Any]) -> None:
    """Pass the header `x-odd` to authz as filter metadata, and to the access log in every possible way."""
    namespace = "client"
    to_metadata = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    rule = {
        "header": "x-odd",
        "on_header_present": {"metadata_namespace": namespace, "key": "odd", "type": "STRING"},
        "remove": False,
    }
    copy = {
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": {"@type": to_metadata, "request_rules": [rule]},
    }
    manager["http_filters"].insert(0, copy)
    for http_filter in manager["http_filters"]:
        if http_filter["name"] == "envoy.filters.http.ext_authz":
            http_filter["typed_config"]["metadata_context_namespaces"] = [namespace]
    [log] = manager["access_log"]
    config = log["typed_config"]
    config["additional_request_headers_to_log"] = ["x-odd"]
    config["common_config"]["custom_tags"] = [{"tag": "odd", "request_header": {"name": "x-odd"}}]


async def _line(edge: Edge, path: str) -> dict[str, Any]:
    lines = await log_lines(edge.places.access_log, lambda lines: any(line["path"] == path for line in lines))
    [line] = [line for line in lines if line["path"] == path]
    return line


@pytest.mark.parametrize("listener", LISTENERS)
async def test_no_request_is_kept_out_of_the_log(
    listener: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with serve_both(tmp_path_factory.mktemp("e"), log_client_bytes) as edge:
        odd = b"a\xffb\\"
        headers = [("x-odd", odd), ("x-request-id", odd), ("user-agent", odd), ("referer", odd)]
        answer = await send(edge, "/public/odd", headers, listener=listener)
        assert answer.status == 200
        line = await _line(edge, "/public/odd")
        assert line["tags"]["odd"] == line["metadata"]["client"]["odd"] == r"a\xffb\\"
        assert {"tags.odd", "metadata.client.odd"} <= set(line["not_utf8"])
        if listener == PLAIN:
            # Envoy 1.40 writes `!` here (#22996 was about this field).
            assert line["request_id"] in {"a!b\\", r"a\xffb\\"}
        # An attacker wants refused requests in particular to be missing from the log.
        answer = await send(edge, "/admin/odd", headers, listener=listener)
        assert answer.status == 401
        line = await _line(edge, "/admin/odd")
        assert (line["code"], line["authz_outcome"]) == (401, "deny")
        assert await edge.admin.metric("accesslog_entries_dropped_total") == 0
