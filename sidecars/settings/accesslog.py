"""The `accesslog` section of the settings file."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from accesslog.records.encode import MAX_RECORD_BYTES
from accesslog.records.formats import Format
from accesslog.records.redact import Redaction
from accesslog.records.redact_rules import Action, RedactRule, RedactRules
from accesslog.records.requests import BUCKETS_SECONDS, MOST_SERIES, RequestCounters
from accesslog.records.sample import Sampling
from common.configfile import Block
from common.os_errors import in_words
from common.redaction import NO_NAMES, SecretNames
from sidecars.settings.listen import ConfigPath, ListenAddress, PlainAddress
from sidecars.settings.sinks import (
    FileSinkSettings,
    ParquetSinkSettings,
    SinkSettings,
    StdoutSinkSettings,
)

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of all, from 0 to 1."""


class AllowSettings(Block):
    """What is logged although it is redacted by default. Each name also appears in a warning at start."""

    headers: tuple[str, ...] = ()
    """Headers that are logged in full."""
    query_parameters: tuple[str, ...] = ()
    """Query parameters that are logged in full."""


class RedactRuleSettings(Block):
    """What becomes of values with some names: a name, or a regular expression (RE2) between slashes."""

    action: Action
    """drop: left out; mask: [redacted]; hash: their HMAC-SHA-256, so that equal values stay equal."""
    headers: tuple[str, ...] = ()
    """Names of headers and trailers that are logged."""
    query_parameters: tuple[str, ...] = ()
    """Names of parameters of queries."""
    cookies: tuple[str, ...] = ()
    """Names of cookies, where redact.allow has the header `cookie` logged."""
    metadata: tuple[str, ...] = ()
    """Keys of metadata, tags and filter state, at any depth."""
    descriptors: tuple[str, ...] = ()
    """Keys of rate-limit descriptors."""
    path_segments: tuple[str, ...] = ()
    """Regular expressions, without slashes, for whole segments of paths."""

    @property
    def rule(self) -> RedactRule:
        """The rule in the type of the library."""
        return RedactRule(**self.model_dump())


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
    rules: tuple[RedactRuleSettings, ...] = ()
    """What is dropped, masked or hashed besides; the first rule that names a value decides."""
    hash_key_file: ConfigPath | None = Field(
        None, description="The key of the hashes, 16 bytes or more; a newline at its end does not count."
    )
    policy: tuple[ConfigPath, ...] = Field(
        (),
        description="Policy files and folders of authz: every name that they read a credential from is "
        "redacted, too. Default: those of the section authz of this file, if there is one.",
    )

    @property
    def names(self) -> SecretNames:
        """The names that are redacted in addition to the defaults."""
        return SecretNames(frozenset(self.headers), frozenset(self.query_parameters))

    def redaction(self, names: SecretNames = NO_NAMES, further: Sequence[RedactRule] = ()) -> Redaction:
        """The names, with further ones and further rules, compiled.

        Raises ValueError for a name that is allowed but not a default, and for hashes without a key.
        """
        more = self.names.with_those_of(names)
        allow = self.allow
        rules = RedactRules([*(settings.rule for settings in self.rules), *further], self.hash_key())
        return Redaction(more.headers, more.query_parameters, allow.headers, allow.query_parameters, rules)

    def masking(self, names: SecretNames = NO_NAMES, further: Sequence[RedactRule] = ()) -> Redaction:
        """As `redaction`, but each rule masks what it names: to find what is still to be redacted."""
        rules = tuple(rule.model_copy(update={"action": Action.MASK}) for rule in self.rules)
        return self.model_copy(update={"rules": rules}).redaction(names, further)

    def hash_key(self) -> bytes:
        """The key of hashes, from its file; empty without one. Raises ValueError if it cannot be read."""
        if self.hash_key_file is None:
            return b""
        try:
            return self.hash_key_file.read_bytes().removesuffix(b"\n")
        except OSError as error:
            raise ValueError(f"hash_key_file {self.hash_key_file}: {in_words(error)}") from error

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        self.redaction()
        return self


class SampleSettings(Block):
    """What is kept of ordinary requests. Errors, refusals and slow requests are always kept."""

    rate: Share = Field(1.0, description="1.0: all; 0.1: one request in ten, by its request id.")
    routes: dict[str, Share] = Field(
        default_factory=dict, description="Rates of single routes, by route_name; the others have `rate`."
    )
    slow_seconds: float | None = Field(
        None, gt=0, description="Requests that take at least this long are always kept. Default: none is."
    )

    @property
    def sampling(self) -> Sampling:
        """The rates in the type of the library."""
        slow_us = None if self.slow_seconds is None else round(self.slow_seconds * 1_000_000)
        return Sampling(self.rate, dict(self.routes), slow_us)


class RequestMetricsSettings(Block):
    """Metrics of the finished HTTP requests by route and class of response, before sampling."""

    enabled: bool = True
    """Whether requests are counted."""
    most_series: int = Field(
        MOST_SERIES, ge=1, le=100_000, description="Label sets; further ones are counted as route (other)."
    )
    buckets_seconds: tuple[float, ...] = Field(
        BUCKETS_SECONDS, min_length=1, max_length=64, description="Upper bounds of the durations, ascending."
    )

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        bounds = self.buckets_seconds
        if bounds[0] <= 0 or any(one >= other for one, other in pairwise(bounds)):
            raise ValueError("buckets_seconds must ascend, from a number above 0")
        return self

    @property
    def counters(self) -> RequestCounters | None:
        """New counters; None if requests are not counted."""
        return RequestCounters(self.buckets_seconds, self.most_series) if self.enabled else None


class AccesslogSettings(Block):
    """The accesslog sidecar: writes Envoy's access log as JSON lines."""

    listen: tuple[ListenAddress, ...] = Field(min_length=1)
    """The addresses for Envoy's access log streams."""
    sinks: tuple[SinkSettings, ...] = Field((StdoutSinkSettings(),), min_length=1)
    """Where the log lines go; each sink gets all of them."""
    envoy_admin: PlainAddress | None = Field(
        None,
        description="Envoy's admin interface. Its counters of access log entries become metrics, next to the "
        "number of entries that Envoy sent and that did not arrive.",
    )
    redact: RedactSettings = RedactSettings()
    """What is redacted in addition to the defaults."""
    sample: SampleSettings = SampleSettings()
    """The fraction of successful requests that is logged."""
    route_rules: tuple[ConfigPath, ...] = Field(
        (),
        description="Files with the sampling, fields and redaction of single routes, as `sidecars edge "
        "build` writes them (accesslog.json). Where both have a rate for a route, `sample.routes` counts.",
    )
    request_metrics: RequestMetricsSettings = RequestMetricsSettings()
    """Rate, errors and durations of requests."""
    format: Format = Field(
        Format.SIDECARS,
        description="How sinks without a `format` of their own write lines, otlp and parquet excepted. "
        "sidecars: the fields of docs/accesslog.md; opentelemetry: its log data model and "
        "semantic conventions; ecs: the Elastic Common Schema.",
    )
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
        lakes = [sink.folder for sink in self.sinks if isinstance(sink, ParquetSinkSettings)]
        if len(set(lakes)) < len(lakes):
            raise ValueError("two parquet sinks write to the same folder")
        folders = [sink.spool.folder for sink in self.sinks if sink.spool is not None]
        if len(set(folders)) < len(folders):
            raise ValueError("two sinks have the same spool folder; give each a folder of its own")
        return self
