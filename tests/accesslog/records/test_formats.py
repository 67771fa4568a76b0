"""Every line, in every format, is as its JSON Schema says."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.fields import FIELDS
from accesslog.records.formats import Format, ecs_name, renderer
from accesslog.records.redact import Redaction
from accesslog.records.sample import Sampling
from accesslog.records.schema import schema
from accesslog.wire.entry import HTTP, EntryKind
from protos.wire import field_with
from sidecars.cli.app import app
from tests.accesslog.records.test_lines import entries, with_secrets
from tests.support.entries import http_entry, message, tcp_entry

VALIDATORS = {wanted: Draft202012Validator(schema(wanted)) for wanted in Format}


def lines(wanted: Format, data: bytes) -> list[dict[str, Any]]:
    decoder = EntryDecoder(Rules(Redaction(), Sampling()), EntryCounters(), lambda: 1.0, lambda: 0.5)
    render = renderer(wanted) or bytes
    return [orjson.loads(render(line)) for batch in decoder.read(data) for line in batch.lines]


def one(wanted: Format, entry: Any) -> dict[str, Any]:
    [line] = lines(wanted, message(entry).SerializeToString())
    return line


@pytest.mark.parametrize("wanted", Format)
def test_the_schema_is_one(wanted: Format) -> None:
    Draft202012Validator.check_schema(schema(wanted))


@pytest.mark.parametrize("wanted", Format)
@given(entries())
def test_any_line_is_valid(wanted: Format, entry: tuple[EntryKind[Any], bytes]) -> None:
    kind, data = entry
    for line in lines(wanted, field_with(2 if kind is HTTP else 3, field_with(1, data))):
        VALIDATORS[wanted].validate(line)


@pytest.mark.parametrize("wanted", Format)
def test_another_field_is_not(wanted: Format) -> None:
    line = one(wanted, tcp_entry())
    VALIDATORS[wanted].validate(line)
    assert not VALIDATORS[wanted].is_valid({**line, "surprise": 1})


def test_of_opentelemetry() -> None:
    line = one(Format.OPENTELEMETRY, http_entry(code=503, request_headers={"accept": "*/*"}))
    assert (line["severity_text"], line["severity_number"]) == ("ERROR", 17)
    assert line["body"] == "GET /v1/orders/77 503"
    assert line["resource"] == {"service.name": "front", "service.instance.id": "envoy-1"}
    attributes = line["attributes"]
    assert attributes["http.request.method"] == "GET"
    assert attributes["http.response.status_code"] == 503
    assert attributes["http.request.header.accept"] == ["*/*"]
    assert attributes["url.path"] == "/v1/orders/77"
    assert attributes["envoy.route"] == "orders-read"


def test_of_ecs() -> None:
    line = one(Format.ECS, http_entry(code=403))
    assert line["@timestamp"] == "2026-09-21T14:13:20.123456Z"
    assert (line["http.request.method"], line["http.response.status_code"]) == ("GET", 403)
    assert (line["http.version"], line["event.duration"]) == ("2", 7_654_000)
    assert (line["event.outcome"], line["log.level"]) == ("failure", "warn")
    assert line["client.ip"] == "203.0.113.9"
    assert line["envoy.cluster"] == "orders"


def test_no_two_fields_have_one_name_in_ecs() -> None:
    assert len({ecs_name(name) for name in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize("wanted", Format)
def test_what_is_redacted_is_so_in_every_format(wanted: Format) -> None:
    [line] = lines(wanted, field_with(2, field_with(1, with_secrets())))
    text = orjson.dumps(line)
    assert b"[redacted]" in text
    assert b"Bearer abc" not in text


@pytest.mark.parametrize("wanted", Format)
def test_the_command_prints_the_schema(wanted: Format) -> None:
    result = CliRunner().invoke(app, ["logs", "schema", "--format", wanted])
    assert result.exit_code == 0
    assert orjson.loads(result.stdout) == schema(wanted)


def test_a_duration_beyond_64_bits_of_nanoseconds_is_the_longest_there_is() -> None:
    entry = http_entry()
    entry.common_properties.duration.FromSeconds(20_000_000_000)
    assert one(Format.ECS, entry)["event.duration"] == 2**63 - 1
