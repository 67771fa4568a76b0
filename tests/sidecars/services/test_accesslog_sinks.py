import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from accesslog.records.formats import Format
from accesslog.records.schema import schema
from common.configfile import ConfigError
from common.pairs_file import pairs_in
from sidecars.services.accesslog import build
from sidecars.settings.sinks import format_of
from tests.sidecars.services.test_accesslog import dependencies, settings
from tests.support.entries import http_entry, message
from tests.support.ratelimiting import CALL


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"sinks": [{"type": "syslog"}]}, "'stdout', 'file', 'redis', 'otlp', 'parquet', 'kafka'"),
        ({"sinks": [{"type": "stdout"}, {"type": "stdout"}]}, "several sinks are named stdout"),
        (
            {"sinks": [{"type": "file", "path": "a"}, {"type": "file", "name": "b", "path": "a"}]},
            "same path",
        ),
        (
            {
                "sinks": [
                    {"type": "stdout", "spool": {"folder": "/tmp/s"}},
                    {"type": "stdout", "name": "b", "spool": {"folder": "/tmp/s"}},
                ]
            },
            "same spool folder",
        ),
        ({"sinks": [{"type": "file"}]}, "path"),
        (
            {"sinks": [{"type": "otlp", "endpoint": "http://127.0.0.1:4318", "format": "ecs"}]},
            "a sink of this type writes the fields of records: leave format out",
        ),
        ({"sinks": [{"type": "parquet", "folder": "/tmp/lake", "format": "ecs"}]}, "leave format out"),
        ({"sinks": [{"type": "stdout", "format": "xml"}]}, "'sidecars', 'opentelemetry' or 'ecs'"),
        ({"sinks": [{"type": "otlp", "endpoint": "127.0.0.1:4317"}]}, "expected http://HOST:PORT"),
        (
            {"sinks": [{"type": "otlp", "endpoint": "http://a?token=x"}]},
            "without user and query",
        ),
        (
            {"sinks": [{"type": "kafka", "servers": "k", "properties": {"sasl.password": "x"}}]},
            "sasl.password holds a secret: write it to properties_file",
        ),
        ({"sinks": [{"type": "file", "path": "a", "rotate": {}}]}, "max_bytes, every_seconds or both"),
        ({"sinks": [{"type": "stdout", "name": "a b"}]}, "expected text as in"),
        ({"sinks": [{"type": "file", "path": "a", "mode": "0999"}]}, "expected text as in"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        settings(**section)


def test_the_format_of_a_sink_is_its_own_else_that_of_the_section() -> None:
    section = settings(
        format="ecs",
        sinks=[
            {"type": "stdout"},
            {"type": "file", "path": "a", "format": "sidecars"},
            {"type": "redis", "format": "opentelemetry"},
            {"type": "otlp", "endpoint": "http://127.0.0.1:4317"},
            {"type": "parquet", "folder": "/tmp/lake"},
        ],
    )
    assert [format_of(sink, section.format).value for sink in section.sinks] == [
        "ecs",
        "sidecars",
        "opentelemetry",
        "sidecars",
        "sidecars",
    ]


async def _two_entries() -> AsyncIterator[bytes]:
    yield message(http_entry(), http_entry(code=503)).SerializeToString()


async def test_each_file_has_the_lines_of_its_format(tmp_path: Path) -> None:
    files = {wanted: tmp_path / f"{wanted}.jsonl" for wanted in Format}
    sinks = [
        {"type": "file", "name": wanted.value, "path": str(file), "format": wanted.value}
        for wanted, file in files.items()
    ]
    sinks.append({"type": "file", "name": "default", "path": str(tmp_path / "default.jsonl")})
    sidecar = build(settings(sinks=sinks, format="ecs"), dependencies())
    await sidecar.start()
    await sidecar.stream(_two_entries(), CALL)
    await sidecar.stop()
    for wanted, file in files.items():
        validator = Draft202012Validator(schema(wanted))
        lines = list(map(orjson.loads, file.read_bytes().splitlines()))
        assert len(lines) == 2
        assert all(map(validator.is_valid, lines))
    assert (tmp_path / "default.jsonl").read_bytes() == files[Format.ECS].read_bytes()


def test_a_redis_sink_without_a_redis_says_so_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        build(settings(sinks=[{"type": "redis"}]), dependencies())
    [problem] = caught.value.problems
    assert (problem.key_path, problem.message) == (
        "accesslog.sinks[0].type",
        "type: redis needs the section redis with the url or the Sentinels of a Redis",
    )


@pytest.mark.parametrize(
    ("module", "sink", "place", "extra"),
    [
        ("google_crc32c", {"type": "stdout", "spool": {"folder": "/tmp/s"}}, "spool", "spool"),
        (
            "zstandard",
            {"type": "file", "name": "b", "path": "/tmp/b", "rotate": {"every_seconds": 60}},
            *("rotate.compression", "zstd"),
        ),
        ("confluent_kafka", {"type": "kafka", "servers": "k:9092"}, "type", "kafka"),
        ("pyarrow", {"type": "parquet", "folder": "/tmp/lake"}, "type", "parquet"),
    ],
)
def test_what_needs_an_extra_says_so_where_it_is_asked_for(
    module: str, sink: dict[str, Any], place: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        build(settings(sinks=[{"type": "file", "path": Path("/tmp/a")}, sink]), dependencies())
    [problem] = caught.value.problems
    assert problem.key_path == f"accesslog.sinks[1]{place and '.' + place}"
    assert problem.message.startswith(f"needs the extra {extra} (in a clone: pip install '.[{extra}]')")


@pytest.mark.parametrize("sign", [":", "="])
def test_a_file_of_pairs_that_is_not_text_is_an_error_of_the_file(sign: str, tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"# a comment\n\na{sign}b\n")
    assert pairs_in(file, sign) == {"a": "b"}
    file.write_bytes(b"\xff")
    with pytest.raises(OSError, match="not UTF-8"):
        pairs_in(file, sign)


def test_a_key_of_hashes_that_has_gone_is_a_problem_of_the_settings(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    sidecar = build(settings(redact={"hash_key_file": key}), dependencies())
    key.unlink()
    with pytest.raises(ConfigError) as caught:
        sidecar.prepare()
    [problem] = caught.value.problems
    assert problem.key_path == "accesslog.redact"
