import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given
from typer.testing import CliRunner

from accesslog.records.audit import findings
from accesslog.records.counters import EntryCounters
from accesslog.records.decoder import EntryDecoder, Rules
from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import Action, RedactRule, RedactRules
from accesslog.records.sample import Sampling
from accesslog.wire.entry import HTTP, EntryKind
from protos.wire import field_with
from sidecars.cli.app import app
from tests.accesslog.records.test_lines import entries, with_secrets
from tests.support.entries import http_entry, message

RULES = (
    RedactRule(Action.HASH, headers=("x-user",), query_parameters=("x",), path_segments=(r"\d+",)),
    RedactRule(Action.DROP, metadata=("outcome",), descriptors=("a",)),
)
RULED = Redaction(rules=RedactRules(RULES, b"k" * 16))
MASKING = Redaction(rules=RedactRules([replace(rule, action=Action.MASK) for rule in RULES]))

SECRET = "hunter2hunter2"


def audit(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["logs", "audit", *map(str, arguments)])
    return result.exit_code, result.output


def written(*entries: object, redaction: Redaction | None = None) -> bytes:
    rules = Rules(redaction or Redaction(), Sampling())
    decoder = EntryDecoder(rules, EntryCounters(), lambda: 1.0, lambda: 0.5)
    data = message(*entries).SerializeToString()  # type: ignore[arg-type]
    return b"".join(line for batch in decoder.read(data) for line in batch.lines)


def test_what_the_sidecar_wrote_holds_none(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    entry = type(http_entry()).FromString(with_secrets())
    file.write_bytes(written(http_entry(), entry))
    assert audit(file) == (0, "2 lines, 0 findings\n")


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("query", f"a=b&token={SECRET}", "query"),
        ("request_headers", {"authorization": SECRET, "accept": "*"}, "request_headers.authorization"),
        ("referer", f"https://user:{SECRET}@h/", "referer"),
        ("metadata", {"mine": {"password": SECRET}}, "metadata.mine"),
        ("path", "/reset/Zm9vYmFy0Zm9v1YmFy2Zm9vYmFy", "path"),
    ],
)
def test_a_secret_is_found_and_not_repeated(field: str, value: object, place: str, tmp_path: Path) -> None:
    record = {**orjson.loads(written(http_entry())), field: value}
    file = tmp_path / "access.jsonl.gz"
    file.write_bytes(gzip.compress(written(http_entry()) + orjson.dumps(record) + b"\n"))
    code, output = audit(file)
    assert (code, output) == (1, f"{file}:2: {place}\n2 lines, 1 findings\n")
    assert SECRET not in output


@given(entries())
def test_what_the_sidecar_writes_of_any_entry_holds_none(entry: tuple[EntryKind[Any], bytes]) -> None:
    kind, data = entry
    decoder = EntryDecoder(Rules(RULED, Sampling()), EntryCounters(), lambda: 1.0, lambda: 0.5)
    batches = decoder.read(field_with(2 if kind is HTTP else 3, field_with(1, data)))
    assert not [place for batch in batches for line in batch.lines for place in findings(line, MASKING)]


def test_a_line_that_is_no_record_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    file.write_bytes(written(http_entry()) + b'{"time":')
    assert audit(file) == (1, f"{file}:2: not a record\n2 lines, 1 findings\n")


def test_the_rules_of_the_settings_must_hold(tmp_path: Path) -> None:
    file, config, key = tmp_path / "access.jsonl", tmp_path / "sidecars.yaml", tmp_path / "key"
    key.write_bytes(b"k" * 16)
    config.write_text(
        f"accesslog:\n  listen: ['127.0.0.1:0']\n  redact:\n    hash_key_file: {key}\n"
        "    rules: [{action: hash, headers: [x-user], path_segments: ['[0-9]+']}]\n"
    )
    entry = http_entry(path="/users/42", request_headers={"x-user": "alice"})
    file.write_bytes(written(entry))
    assert audit(file)[0] == 0
    code, output = audit(file, "--config", config)
    assert code == 1
    assert f"{file}:1: request_headers.x-user" in output
    assert f"{file}:1: path" in output
    rules = RedactRules([RedactRule(Action.HASH, headers=("x-user",), path_segments=("[0-9]+",))], b"k" * 16)
    file.write_bytes(written(entry, redaction=Redaction(rules=rules)))
    assert audit(file, "--config", config) == (0, "1 lines, 0 findings\n")


def test_a_file_that_rotation_compressed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl.zst"
    file.write_bytes(zstandard.compress(written(http_entry())))
    assert audit(file) == (0, "1 lines, 0 findings\n")


def test_names_that_the_policy_reads_credentials_from_are_looked_for(tmp_path: Path) -> None:
    file, config, policy = tmp_path / "access.jsonl", tmp_path / "sidecars.yaml", tmp_path / "policy.yaml"
    policy.write_text(
        "credentials:\n  api_keys: {locations: [{header: x-partner}], keys: [{id: a, subject: a, sha256: "
        f"'{'0' * 64}'}}]}}\nrules: []\n"
    )
    config.write_text(f"accesslog:\n  listen: ['127.0.0.1:0']\n  redact:\n    policy: [{policy}]\n")
    file.write_bytes(written(http_entry(request_headers={"x-partner": SECRET})))
    assert audit(file)[0] == 0
    code, output = audit(file, "--config", config)
    assert (code, output.splitlines()[0]) == (1, f"{file}:1: request_headers.x-partner")


def test_the_rules_of_routes_must_hold_for_their_records(tmp_path: Path) -> None:
    (tmp_path / "routes.json").write_text(
        '{"redact": [{"action": "hash", "query_parameters": ["expand"]}],'
        ' "routes": {"orders-read": {"redact": [{"action": "drop", "headers": ["x-user"]}]},'
        ' "other": {"fields": ["path"]}}}'
    )
    config = tmp_path / "sidecars.yaml"
    config.write_text("accesslog: {listen: ['unix:l'], route_rules: [routes.json]}\n")
    file = tmp_path / "access.jsonl"
    lines: list[dict[str, Any]] = [
        {"route": "orders-read", "query": f"expand=hmac-{'0' * 32}", "request_headers": {"accept": "*"}},
        {"route": "orders-read", "query": "expand=lines", "request_headers": {"x-user": "u"}},
        {"route": "another", "request_headers": {"x-user": "u"}, "method": "GET"},
        {"route": "other", "path": "/", "method": "GET"},
    ]
    file.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
    code, output = audit(file, "-c", config)
    assert code == 1
    assert output.splitlines() == [
        f"{file}:2: query",
        f"{file}:2: request_headers.x-user",
        f"{file}:4: method",
        "4 lines, 3 findings",
    ]
