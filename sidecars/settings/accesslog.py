"""The `accesslog` section of the settings file."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from accesslog.records.encode import MAX_RECORD_BYTES
from accesslog.records.redact import Redaction
from accesslog.sinks.file import FILE_MODE, Fsync
from accesslog.sinks.queue import Bounds
from common.configfile import Block, Spelled
from common.redaction import NO_NAMES, SecretNames
from sidecars.settings.listen import ConfigPath, ListenAddress

_BOUNDS: Final = Bounds()


class QueueSettings(Block):
    """The queue of a sink. When it is full, the stream waits, and Envoy buffers what it can."""

    entries: int = Field(_BOUNDS.queue_entries, ge=1)
    """The most log entries that wait."""
    bytes: int = Field(_BOUNDS.queue_bytes, ge=1024, description="Memory for the queue of a sink.")


class _SinkSettings(Block):
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
        description="How long a failing sink is retried before entries are dropped.",
    )

    @property
    def bounds(self) -> Bounds:
        """The bounds in the type of the library."""
        return Bounds(
            queue_entries=self.queue.entries,
            queue_bytes=self.queue.bytes,
            batch_bytes=self.batch_bytes,
            retry_timeout_seconds=self.retry_timeout_seconds,
        )


class StdoutSinkSettings(_SinkSettings):
    """JSON lines to standard output."""

    type: Literal["stdout"] = "stdout"
    """The kind of sink."""

    @property
    def label(self) -> str:
        """The name of the sink in metrics."""
        return self.name or self.type


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

    @property
    def label(self) -> str:
        """The name of the sink in metrics."""
        return self.name or self.type


SinkSettings = Annotated[StdoutSinkSettings | FileSinkSettings, Field(discriminator="type")]


class AllowSettings(Block):
    """What is logged although it is redacted by default. Each name also appears in a warning at start."""

    headers: tuple[str, ...] = ()
    """Headers that are logged in full."""
    query_parameters: tuple[str, ...] = ()
    """Query parameters that are logged in full."""


class RedactSettings(Block):
    """Names to redact in addition to the defaults (authorization, cookie, set-cookie, access_token ...)."""

    headers: tuple[str, ...] = Field(
        (), description="Headers; the names hold for trailers, tags and metadata keys too."
    )
    query_parameters: tuple[str, ...] = Field(
        (), description="Parameters of path, original path and referer."
    )
    allow: AllowSettings = AllowSettings()
    """What is logged although the defaults redact it."""
    policy: tuple[ConfigPath, ...] = Field(
        (),
        description="Policy files and folders of authz: every name that they read a credential from is "
        "redacted, too. Default: those of the section authz of this file, if there is one.",
    )

    @property
    def names(self) -> SecretNames:
        """The names that are redacted in addition to the defaults."""
        return SecretNames(frozenset(self.headers), frozenset(self.query_parameters))

    def redaction(self, names: SecretNames = NO_NAMES) -> Redaction:
        """The names, with further ones, compiled. Raises ValueError for one allowed that is not a default."""
        more = self.names.with_those_of(names)
        return Redaction(more.headers, more.query_parameters, self.allow.headers, self.allow.query_parameters)

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        self.redaction()
        return self


class SampleSettings(Block):
    """What is kept of ordinary requests. Errors and denials are always kept."""

    rate: float = Field(1.0, ge=0, le=1, description="1.0: all; 0.1: one request in ten, by its request id.")


class AccesslogSettings(Block):
    """The accesslog sidecar: writes Envoy's access log as JSON lines."""

    listen: tuple[ListenAddress, ...] = Field(min_length=1)
    """The addresses for Envoy's access log streams."""
    sinks: tuple[SinkSettings, ...] = Field((StdoutSinkSettings(),), min_length=1)
    """Where the log lines go; each sink gets all of them."""
    redact: RedactSettings = RedactSettings()
    """What is redacted in addition to the defaults."""
    sample: SampleSettings = SampleSettings()
    """The fraction of successful requests that is logged."""
    max_record_bytes: int = Field(
        MAX_RECORD_BYTES, ge=4096, description="Long values in longer records are truncated."
    )
    flush_seconds: float = Field(
        4.0,
        ge=0,
        le=3600,
        description="The time at shutdown to write queued lines. Keep it below drain.flush_seconds.",
    )

    @model_validator(mode="after")
    def _sinks_differ(self) -> Self:
        labels = [sink.label for sink in self.sinks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"several sinks are named {', '.join(twice)}; give each its own `name`")
        paths: list[Path] = [sink.path for sink in self.sinks if isinstance(sink, FileSinkSettings)]
        if len(set(paths)) < len(paths):
            raise ValueError("two file sinks write to the same path")
        return self
