"""The `sinks` of the `accesslog` section: where log lines go."""

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from accesslog.records.formats import Format
from accesslog.sinks.file import FILE_MODE, Fsync
from accesslog.sinks.queue import Bounds
from accesslog.sinks.rotation import Compression, Rotation
from accesslog.sinks.spooling import SpoolBounds
from common.configfile import Block, Spelled
from sidecars.settings.listen import ConfigPath

_BOUNDS: Final = Bounds()
_SPOOL: Final = SpoolBounds()
_ROTATION: Final = Rotation()

_SECRET_PROPERTY: Final = re.compile(r"password|secret|private|jaas|key\.pem|oauthbearer\.config")
"""Names of librdkafka's properties whose values are secrets; `/config` shows the settings."""


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        port_is_good = False
    if (
        not port_is_good
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.username
        or parts.query
    ):
        raise ValueError("expected http://HOST:PORT or https://HOST:PORT, without user and query")
    return url


class QueueSettings(Block):
    """The queue of a sink. When it is full, the stream waits, and Envoy buffers what it can."""

    entries: int = Field(_BOUNDS.queue_entries, ge=1)
    """The most log entries that wait."""
    bytes: int = Field(_BOUNDS.queue_bytes, ge=1024, description="Memory for the queue of a sink.")


class SpoolSettings(Block):
    """A folder for what a sink cannot take yet. Needs the extra `spool`."""

    folder: ConfigPath
    """The folder, for this sink alone; it is created in a folder that exists."""
    max_bytes: int = Field(_SPOOL.max_bytes, ge=1024 * 1024, description="The most bytes on disk.")
    sync_ms: int = Field(
        round(_SPOOL.sync_seconds * 1000),
        ge=10,
        le=60_000,
        description="What has waited this long is on disk, and synced after as long again. A killed process "
        "loses at most this much time, a failed machine twice as much.",
    )

    @property
    def bounds(self) -> SpoolBounds:
        """The bounds in the type of the library."""
        return SpoolBounds(self.max_bytes, self.sync_ms / 1000)


class _SinkSettings(Block):
    type: str
    """The kind of sink."""
    name: Annotated[str, Spelled(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?", "audit")] = Field(
        "", description="Its label in metrics; default: the type."
    )
    required: bool = Field(
        default=False,
        description=(
            "Streams wait for this sink even if others have room. "
            "Without it, a full sink loses entries while another has room, counted as queue_full."
        ),
    )
    queue: QueueSettings = QueueSettings()
    """The bounds of the sink's queue."""
    batch_bytes: int = Field(_BOUNDS.batch_bytes, ge=1024, description="The most to write at once.")
    retry_timeout_seconds: float = Field(
        _BOUNDS.retry_timeout_seconds,
        ge=0,
        le=3600,
        description="How long a failing sink is retried before entries are dropped. With a spool, never.",
    )
    spool: SpoolSettings | None = None
    """Where entries wait on disk while the sink is away or slow, also during a restart."""
    format: Format | None = Field(
        None,
        description="How its lines are written; default: `format` of the section. Not for otlp and parquet, "
        "which write fields.",
    )

    @property
    def label(self) -> str:
        """The name of the sink in metrics."""
        return self.name or self.type

    @property
    def bounds(self) -> Bounds:
        """The bounds in the type of the library."""
        return Bounds(
            queue_entries=self.queue.entries,
            queue_bytes=self.queue.bytes,
            batch_bytes=self.batch_bytes,
            retry_timeout_seconds=self.retry_timeout_seconds,
        )


class _FieldSinkSettings(_SinkSettings):
    @field_validator("format")
    @classmethod
    def _fields_have_no_format(cls, wanted: Format | None) -> Format | None:
        if wanted not in (None, Format.SIDECARS):
            raise ValueError("a sink of this type writes the fields of records: leave format out")
        return wanted


class StdoutSinkSettings(_SinkSettings):
    """JSON lines to standard output."""

    type: Literal["stdout"] = "stdout"
    """The kind of sink."""


class RotateSettings(Block):
    """Rotates the file without an outside tool. Rotated files are named FILE.TIME, in UTC."""

    max_bytes: int | None = Field(None, ge=4096, description="Rotate before the file is larger.")
    every_seconds: int | None = Field(
        None,
        ge=1,
        le=366 * 86_400,
        description="Rotate at the first entry after each multiple of this time: 3600 on the hour, 86400 at "
        "midnight UTC.",
    )
    keep: int = Field(_ROTATION.keep, ge=1, le=100_000, description="Rotated files; older ones are deleted.")
    compression: Compression = Field(
        Compression.ZSTD,
        description="none, gzip or zstd (needs the extra `zstd`), in a thread of low priority.",
    )

    @property
    def rotation(self) -> Rotation:
        """The rules in the type of the library."""
        return Rotation(self.max_bytes, self.every_seconds, self.keep, self.compression)

    @model_validator(mode="after")
    def _has_a_cause(self) -> Self:
        if self.max_bytes is None and self.every_seconds is None:
            raise ValueError("rotate needs max_bytes, every_seconds or both")
        return self


class FileSinkSettings(_SinkSettings):
    """JSON lines appended to a file, which log rotation may move away."""

    type: Literal["file"] = "file"
    """The kind of sink."""
    path: ConfigPath
    """The file that lines are appended to; log rotation may move it."""
    mode: Annotated[str, Spelled(r"0?[0-7]{3}", "0640")] = Field(
        f"{FILE_MODE:04o}", description="Octal mode of a new file."
    )
    fsync: Fsync = Field(
        Fsync.NEVER,
        description="never; interval (at most fsync_seconds later); batch (before entries count as written).",
    )
    fsync_seconds: float = Field(1.0, gt=0, le=3600)
    """With `fsync: interval`, the longest time between a write and its fsync."""
    rotate: RotateSettings | None = None
    """When to rotate the file. Default: never, an outside tool may."""


class RedisSinkSettings(_SinkSettings):
    """A Redis stream. Needs the section `redis`."""

    type: Literal["redis"] = "redis"
    """The kind of sink."""
    stream: str = Field("accesslog", min_length=1, max_length=512)
    """The key of the stream; each entry has one field, `record`, with the JSON line."""
    max_entries: int = Field(
        1_000_000, ge=1, description="About the newest so many stay in the stream (MAXLEN ~)."
    )
    timeout_ms: int = Field(2_000, ge=1, le=60_000, description="The longest wait for Redis to take a batch.")


class OtlpSinkSettings(_FieldSinkSettings):
    """An OpenTelemetry collector, by OTLP."""

    type: Literal["otlp"] = "otlp"
    """The kind of sink."""
    endpoint: Annotated[str, AfterValidator(_http_url)] = Field(
        description="http://HOST:PORT or https://HOST:PORT; by HTTP the path is /v1/logs, if it has none.",
        examples=["http://127.0.0.1:4317"],
    )
    protocol: Literal["grpc", "http"] = Field("grpc", description="http is HTTP with protobuf.")
    headers_file: ConfigPath | None = Field(
        None, description="A file with NAME: VALUE lines, sent with each request; read for each."
    )
    ca_file: ConfigPath | None = Field(None, description="PEM certificates trusted for https.")
    compression: Literal["gzip", "none"] = "gzip"
    """How requests are compressed."""
    timeout_ms: int = Field(10_000, ge=1, le=120_000, description="The longest wait for a response.")
    resource: dict[str, str] = Field(
        {"service.name": "envoy"}, description="Attributes of the resource, the same for all records."
    )


class ParquetSinkSettings(_FieldSinkSettings):
    """Parquet files by day and hour. Needs the extra `parquet`."""

    type: Literal["parquet"] = "parquet"
    """The kind of sink."""
    folder: ConfigPath
    """The folder of the files, FOLDER/day=2026-11-29/hour=13/; created in a folder that exists."""
    every_seconds: int = Field(
        300, ge=1, le=86_400, description="How often lines become a Parquet file; until then they are staged."
    )
    max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=4096,
        description="The size of the staging file at which it is converted earlier.",
    )


class KafkaSinkSettings(_SinkSettings):
    """A topic of Apache Kafka. Needs the extra `kafka`."""

    type: Literal["kafka"] = "kafka"
    """The kind of sink."""
    servers: str = Field(
        min_length=1, description="Brokers to begin with.", examples=["kafka-1:9092,kafka-2:9092"]
    )
    topic: str = Field("accesslog", min_length=1, max_length=249)
    """The topic; each message is a JSON line without its end."""
    timeout_ms: int = Field(
        10_000, ge=100, le=300_000, description="The longest wait for the brokers to take a batch."
    )
    properties: dict[str, str] = Field(
        {}, description="Further properties of librdkafka, such as security.protocol and compression.type."
    )
    properties_file: ConfigPath | None = Field(
        None, description="A file with NAME=VALUE lines, for secrets such as sasl.password."
    )

    @field_validator("properties")
    @classmethod
    def _without_secrets(cls, properties: dict[str, str]) -> dict[str, str]:
        secret = [name for name in properties if _SECRET_PROPERTY.search(name)]
        if secret:
            raise ValueError(f"{secret[0]} holds a secret: write it to properties_file")
        return properties


SinkSettings = Annotated[
    StdoutSinkSettings
    | FileSinkSettings
    | RedisSinkSettings
    | OtlpSinkSettings
    | ParquetSinkSettings
    | KafkaSinkSettings,
    Field(discriminator="type"),
]


def format_of(sink: SinkSettings, default: Format) -> Format:
    """How lines are written to `sink`, where `default` is the format of the section."""
    return Format.SIDECARS if isinstance(sink, _FieldSinkSettings) else sink.format or default
