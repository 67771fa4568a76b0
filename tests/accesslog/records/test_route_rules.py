"""Records of single routes have fewer fields and further redaction, however they are read."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.encode import json_line
from accesslog.records.lines import UNUSUAL, LineMaker
from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import Action, RedactRule, RedactRules
from accesslog.records.route_rules import ALWAYS_KEPT, RouteRule, RoutesRules
from accesslog.records.sample import Sampling
from accesslog.wire.entry import HTTP, record_of
from tests.accesslog.records.test_lines import entries
from tests.support.entries import ORIGIN, http_entry, message

REDACTION = Redaction()
MAKER = LineMaker(REDACTION)
KEY = b"k" * 16


def redacting(*rules: RedactRule) -> RedactRules:
    return RedactRules(rules, KEY)


EVERYTHING = redacting(
    RedactRule(Action.HASH, headers=("a", "authorization"), query_parameters=("expand", "token")),
    RedactRule(Action.DROP, headers=("orders",), metadata=("rule", "/.*12.*/"), query_parameters=("x",)),
    RedactRule(Action.MASK, path_segments=(r"\d{2,}", "a"), descriptors=("GET",), cookies=("b",)),
)
ROUTES = RoutesRules({
    "orders": RouteRule(EVERYTHING),
    "a": RouteRule(EVERYTHING, frozenset({"path", "method", "tags"})),
    "GET": RouteRule(None, frozenset({"path", "receive_time", "log_name"})),
    "orders-read": RouteRule(EVERYTHING, frozenset({"path", "query", "request_headers"})),
})  # fmt: skip
"""For routes that the strategy `entries` has, and that of the usual entry."""

USUAL = http_entry(
    path="/v1/orders/77?expand=lines&token=t&x=1",
    request_headers={"a": "1", "authorization": "Bearer x", "cookie": "b=1", "orders": "2"},
    tags={"12": "x"},
).SerializeToString()


@given(st.lists(entries(), min_size=1, max_size=4))
@example([(HTTP, USUAL), (HTTP, http_entry().SerializeToString())])
def test_both_ways_of_reading_agree(found: list[tuple[Any, bytes]]) -> None:
    kind = found[0][0]
    same = [data for one, data in found if one is kind]
    try:
        rows = MAKER.rows(kind.name, LineMaker.blank(kind.name, ORIGIN), same)
    except UNUSUAL:
        return
    ROUTES.apply_to_rows(rows)
    expected = []
    for data in same:
        record = record_of(kind, data, ORIGIN, 0)
        REDACTION.apply(record)
        ROUTES.apply(record)
        expected.append(json_line(record))
    assert rows.lines() == expected


def read(routes: RoutesRules | None, *entries: Any, rate: float = 1.0) -> tuple[list[dict[str, Any]], int]:
    """Return the records, and how many entries count as redacted."""
    counters = EntryCounters()
    rules = Rules(REDACTION, Sampling(rate), routes=routes)
    decoder = EntryDecoder(rules, counters, lambda: 1_790_000_000.0, lambda: 0.5)
    batches = decoder.read(message(*entries).SerializeToString())
    records = [orjson.loads(line) for batch in batches for line in batch.lines]
    return records, counters.log("edge", "http").redacted


def test_a_record_keeps_the_chosen_fields_and_those_that_identify_it() -> None:
    routes = RoutesRules({"orders-read": RouteRule(fields=frozenset({"method", "path"}))})
    [record], _ = read(routes, http_entry(tags={"edge_revision": "r"}))
    assert set(record) <= ALWAYS_KEPT | {"method", "path"}
    assert (record["method"], record["path"], record["code"], record["route"]) == (
        "GET",
        "/v1/orders/77",
        200,
        "orders-read",
    )
    [other], _ = read(RoutesRules({"another": RouteRule(fields=frozenset({"path"}))}), http_entry())
    assert "cluster" in other


def test_a_route_redacts_its_own_records_alone() -> None:
    rules = redacting(RedactRule(Action.MASK, query_parameters=("expand",)))
    routes = RoutesRules({"orders-read": RouteRule(rules)})
    mine, other = http_entry(), http_entry()
    other.common_properties.route_name = "another"
    records, redacted = read(routes, mine, other, mine)
    assert [record["query"] for record in records] == [
        "expand=[redacted]",
        "expand=lines",
        "expand=[redacted]",
    ]
    assert [record.get("redacted") for record in records] == [["query.expand"], None, ["query.expand"]]
    assert redacted == 2


def test_what_is_redacted_already_is_not_hashed() -> None:
    """A hash of `[redacted]` would look like one of the secret."""
    routes = RoutesRules(
        {"orders-read": RouteRule(redacting(RedactRule(Action.HASH, headers=("authorization",))))}
    )
    [record], redacted = read(routes, http_entry(request_headers={"authorization": "Bearer x"}))
    assert record["request_headers"] == {"authorization": "[redacted]"}
    assert redacted == 1


@pytest.mark.parametrize("path", ["/v1/orders/77", "/UTF8"])
def test_sampling_sees_the_record_before_fields_are_left_out(path: str) -> None:
    routes = RoutesRules({"orders-read": RouteRule(fields=frozenset({"path"}))})
    records, _ = read(routes, http_entry(path=path, code=503), http_entry(path=path, code=200), rate=0.0)
    assert [record["code"] for record in records] == [503]
