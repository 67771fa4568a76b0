"""A secret in every field of an entry that others may fill: no sink, log or metric may show one."""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from accesslog.sinks.parquet import STAGING, convert
from protos.accesslog_data_pb2 import HTTPAccessLogEntry, TCPAccessLogEntry
from sidecars.process.redis import connect
from sidecars.services.accesslog import build
from sidecars.settings.redis import RedisSettings
from tests.sidecars.services.test_accesslog import dependencies, settings
from tests.support.entries import http_entry, message, tcp_entry
from tests.support.otlp import GrpcReceiver, HttpReceiver
from tests.support.ratelimiting import CALL
from tests.support.redis_server import RedisServer
from tests.support.sinks import until

pytestmark = pytest.mark.redis

ODD = "UTF8"
"""Replaces bytes that are not UTF-8, which no protobuf object takes."""

Entry = HTTPAccessLogEntry
Fill = Callable[[HTTPAccessLogEntry, str], None]


class Canaries:
    """Makes secrets that each appear once."""

    def __init__(self) -> None:
        self._numbers = count()
        self.all: list[str] = []

    def word(self) -> str:
        self.all.append(f"Canary{next(self._numbers):05d}Bird")
        return self.all[-1]

    def jwt(self) -> str:
        parts = [json.dumps({"alg": "none"}), json.dumps({"sub": self.word()})]
        encoded = ".".join(base64.urlsafe_b64encode(part.encode()).decode().strip("=") for part in parts)
        self.all.append(encoded.partition(".")[2])
        return f"{encoded}.x"

    def texts(self) -> Iterator[str]:
        """Texts with a secret in each form that redaction knows by itself."""
        yield self.jwt()
        yield f"Bearer {self.word()}"
        yield f"token={self.word()}"
        yield f"https://u:{self.word()}@app.example/x"
        yield f"{ODD} password={self.word()}"
        yield f"{ODD} {self.jwt()}"


def _struct(text: str) -> Struct:
    struct = Struct()
    inner: dict[str, Any] = {"a": [text, {"b": text}], "c": text}
    struct.update(inner)
    return struct


def _tag(entry: Entry, text: str) -> None:
    entry.common_properties.custom_tags["tag"] = text


def _metadata(entry: Entry, text: str) -> None:
    entry.common_properties.metadata.filter_metadata["mine"].CopyFrom(_struct(text))


def _typed_metadata(entry: Entry, text: str) -> None:
    packed = AnyMessage(type_url="type.googleapis.com/google.protobuf.Struct")
    packed.value = _struct(text).SerializeToString()
    entry.common_properties.metadata.typed_filter_metadata["mine"].CopyFrom(packed)


def _ratelimit(entry: Entry, text: str) -> None:
    found: dict[str, Any] = {
        "rule": text,
        "descriptors": [{"entries": [f"x={text}"]}],
        "metadata": {"a": text},
    }
    entry.common_properties.metadata.filter_metadata["envoy.filters.http.ratelimit"].update(found)


def _filter_state(entry: Entry, text: str) -> None:
    value = StringValue(value=text).SerializeToString()
    packed = AnyMessage(type_url="type.googleapis.com/google.protobuf.StringValue", value=value)
    entry.common_properties.filter_state_objects["state"].CopyFrom(packed)


def _san(entry: Entry, text: str) -> None:
    peer = entry.common_properties.tls_properties.peer_certificate_properties
    peer.subject_alt_name.add(uri=text)
    peer.subject_alt_name.add(dns=text)


def _in_map(inner: str, field: str, name: str) -> Fill:
    def fill(entry: Entry, text: str) -> None:
        getattr(getattr(entry, inner), field)[name] = text

    return fill


def _in(*path: str) -> Fill:
    def fill(entry: Entry, text: str) -> None:
        part: Any = entry
        for name in path[:-1]:
            part = getattr(part, name)
        setattr(part, path[-1], text)

    return fill


_PEER = ("common_properties", "tls_properties", "peer_certificate_properties")
TEXTS: dict[str, Fill] = {
    **{name: _in("request", name) for name in ("authority", "scheme", "user_agent", "referer")},
    **{name: _in("request", name) for name in ("forwarded_for", "request_id")},
    "code_details": _in("response", "response_code_details"),
    **{
        name: _in("common_properties", name)
        for name in (
            "stream_id",
            "upstream_transport_failure_reason",
            "downstream_transport_failure_reason",
            "connection_termination_details",
        )
    },
    "sni": _in("common_properties", "tls_properties", "tls_sni_hostname"),
    "peer subject": _in(*_PEER, "subject"),
    "peer issuer": _in(*_PEER, "issuer"),
    "peer san": _san,
    "request header": _in_map("request", "request_headers", "x-any"),
    "trailer": _in_map("response", "response_trailers", "x-any"),
    "tag": _tag,
    "metadata": _metadata,
    "typed metadata": _typed_metadata,
    "filter state": _filter_state,
    "ratelimit": _ratelimit,
}
NAMED: dict[str, Fill] = {
    "path": lambda entry, word: _in("request", "path")(entry, f"/a;token={word}/b?token={word}&x=1"),
    "original path": lambda entry, word: _in("request", "original_path")(entry, f"/a?code={word}"),
    "cookie": _in_map("request", "request_headers", "cookie"),
    "authorization": _in_map("request", "request_headers", "authorization"),
    "set-cookie": _in_map("response", "response_headers", "set-cookie"),
    "secret trailer": _in_map("response", "response_trailers", "x-api-key"),
    "location": lambda entry, word: _in_map("response", "response_headers", "location")(
        entry, f"https://app.example/cb?code={word}"
    ),
    "secret tag": lambda entry, word: entry.common_properties.custom_tags.update({"password": word}),
    "secret metadata": lambda entry, word: entry.common_properties.metadata.filter_metadata["m"].update(
        {"a": {"token": {"deep": word}}}
    ),
    "secret descriptor": lambda entry, word: entry.common_properties.metadata.filter_metadata[
        "envoy.filters.http.ratelimit"
    ].update({"descriptors": [{"entries": [f"api_key={word}"]}]}),
}


def planted(plant: Canaries) -> Iterator[HTTPAccessLogEntry | TCPAccessLogEntry]:
    """Entries with a secret in one place each."""
    for fill in TEXTS.values():
        for text in plant.texts():
            entry = http_entry()
            fill(entry, text)
            yield entry
    for fill in NAMED.values():
        for word in (plant.word(), f"{ODD}{plant.word()}"):
            entry = http_entry()
            fill(entry, word)
            yield entry
    entry = http_entry(path=f"/reset/{plant.jwt()}/now")
    yield entry
    for text in plant.texts():
        tcp = tcp_entry()
        tcp.common_properties.connection_termination_details = text
        tcp.common_properties.tls_properties.tls_sni_hostname = text
        yield tcp


def sent(entries: list[Any]) -> bytes:
    data = message(*entries).SerializeToString()
    return data.replace(ODD.encode(), b"\xff" * len(ODD))


async def _messages(entries: list[Any]) -> AsyncIterator[bytes]:
    for kind in (HTTPAccessLogEntry, TCPAccessLogEntry):  # a message has entries of one kind
        yield sent([entry for entry in entries if isinstance(entry, kind)])
    for entry in entries:  # alone, too: an entry with odd bytes makes others take the same slow way
        yield sent([entry])


def _sinks(folder: Path, grpc: str, http: str) -> list[dict[str, Any]]:
    rotate = {"max_bytes": 4096, "keep": 1_000}
    return [
        {"type": "stdout"},
        {"type": "file", "name": "ecs", "path": str(folder / "ecs.jsonl"), "format": "ecs"},
        {"type": "file", "name": "otel", "path": str(folder / "otel.jsonl"), "format": "opentelemetry"},
        *(
            {
                "type": "file",
                "name": compression,
                "path": str(folder / f"{compression}.jsonl"),
                "rotate": {**rotate, "compression": compression},
                "batch_bytes": 4096,
            }
            for compression in ("gzip", "zstd")
        ),
        {"type": "redis"},
        {"type": "otlp", "name": "grpc", "endpoint": grpc},
        {"type": "otlp", "name": "http", "endpoint": http, "protocol": "http"},
        {"type": "parquet", "folder": str(folder / "lake")},
        {
            "type": "file",
            "name": "away",
            "path": str(folder / "none" / "access.jsonl"),
            "spool": {"folder": str(folder / "spool"), "sync_ms": 10},
        },
    ]


def _written(file: Path) -> str:
    data = file.read_bytes()
    if file.suffix == ".gz":
        data = gzip.decompress(data)
    elif file.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    elif file.suffix == ".parquet":
        return str(pq.read_table(file).to_pylist())
    return data.decode("latin-1")


def _all_written(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): _written(file) for file in folder.rglob("*") if file.is_file()}


def _suffixes(folder: Path) -> set[str]:
    return {file.suffix for file in folder.rglob("*")}


async def test_no_sink_shows_a_canary(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plant = Canaries()
    entries = list(planted(plant))
    registry = CollectorRegistry()
    grpc, http = GrpcReceiver(), HttpReceiver()
    await grpc.start()
    await http.start()
    with RedisServer() as server, capture_logs() as logs:
        # A batch that Redis answers late is sent again; then the stream has it twice.
        patient = {"operation_timeout_ms": 10_000, "connect_timeout_ms": 10_000}
        client = connect(RedisSettings(url=server.url, **patient))
        parts = replace(dependencies(registry), redis_for_log=lambda _: client)
        sidecar = build(settings(sinks=_sinks(tmp_path, grpc.url, http.url), flush_seconds=60), parts)
        await sidecar.start()
        await sidecar.stream(_messages(entries), CALL)
        await until(lambda: {".gz", ".zst"} <= _suffixes(tmp_path))
        page = str(sidecar.describe())
        await sidecar.stop()
        with server.client() as reader:
            in_redis = reader.xrange("accesslog")
    await grpc.stop()
    await http.stop()
    convert(tmp_path / "lake" / STAGING, tmp_path / "lake")
    shown = _all_written(tmp_path)
    assert {".jsonl", ".gz", ".zst", ".parquet"} <= _suffixes(tmp_path)
    assert any(name.startswith("spool/") and "Canary" not in text for name, text in shown.items())
    assert len(in_redis) == 2 * len(entries) == len(grpc.receiver.records) == len(http.receiver.records)
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 2 * len(entries)
    shown |= {
        "stdout": captured.out,
        "stderr": captured.err,
        "logs": str(logs),
        "metrics": generate_latest(registry).decode(),
        "the page /config": page,
        "redis": str(in_redis),
        "otlp grpc": str(grpc.receiver.records),
        "otlp http": str(http.receiver.records),
    }
    for where, text in shown.items():
        found = [secret for secret in plant.all if secret in text]
        assert not found, f"{where} shows {len(found)} secrets: {_context(text, found[0])}"
    assert captured.out.count("[redacted]") > len(entries)


def _context(text: str, secret: str) -> str:
    at = text.index(secret)
    return text[max(0, at - 200) : at + 60]
