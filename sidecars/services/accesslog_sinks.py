"""Builds the sinks of the access log, each with its queue, from their settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from accesslog.metrics import SinkMetrics
from accesslog.records.counters import EntryCounters
from accesslog.records.formats import Format, renderer
from accesslog.sinks.file import FileSink
from accesslog.sinks.kafka import KafkaSink
from accesslog.sinks.otlp import OtlpSink, OtlpTransport
from accesslog.sinks.otlp_http import OtlpHttp
from accesslog.sinks.parquet import ParquetSink
from accesslog.sinks.queue import SinkQueue
from accesslog.sinks.rotation import Compression, Rotation
from accesslog.sinks.sink import Sink
from accesslog.sinks.spooling import SinkSpool
from accesslog.sinks.stdout import StdoutSink
from common.configfile import ConfigError, Problem, key_path_text
from common.configfile.problems import SETTINGS
from common.pairs_file import pairs_in
from sidecars.observability.process_metrics import package_version
from sidecars.services.sidecar import Dependencies
from sidecars.settings.accesslog import AccesslogSettings
from sidecars.settings.sinks import (
    KafkaSinkSettings,
    OtlpSinkSettings,
    ParquetSinkSettings,
    RedisSinkSettings,
    SinkSettings,
    SpoolSettings,
    StdoutSinkSettings,
    format_of,
)


def sink_queues(
    settings: AccesslogSettings, dependencies: Dependencies, counters: EntryCounters
) -> list[SinkQueue]:
    """The queues of all sinks. Raises ConfigError with every extra that is not installed."""
    observer = SinkMetrics(dependencies.registry, [sink.label for sink in settings.sinks])
    queues: list[SinkQueue] = []
    problems: list[Problem] = []
    renderers = {one: renderer(one) for one in Format}
    for index, one in enumerate(settings.sinks):
        try:
            spool = None if one.spool is None else _spool(one.spool, one.label, index, dependencies, counters)
            sink = _sink(one, index, dependencies)
        except ConfigError as error:
            problems += error.problems
            continue
        queues.append(
            SinkQueue(
                sink,
                one.bounds,
                dependencies.monotonic_clock,
                observer,
                required=one.required,
                spool=spool,
                render=renderers[format_of(one, settings.format)],
            )
        )
    if problems:
        raise ConfigError(problems)
    return queues


@contextmanager
def extra(name: str, *place: str | int) -> Iterator[None]:
    """Turn a failed import into a ConfigError at `place` in the sinks that names the extra `name`."""
    try:
        yield
    except ImportError as error:
        text = f"needs the extra {name} (in a clone: pip install '.[{name}]'): {error.name} is not installed"
        raise ConfigError([_problem(text, *place)]) from error


def _problem(text: str, *place: str | int) -> Problem:
    return Problem(SETTINGS, 0, key_path_text(("accesslog", "sinks", *place)), text)


def _spool(
    settings: SpoolSettings, label: str, index: int, dependencies: Dependencies, counters: EntryCounters
) -> SinkSpool:
    with extra("spool", index, "spool"):
        import google_crc32c  # noqa: F401  # the spool imports it with each checksum
    return SinkSpool(settings.folder, label, counters.log, dependencies.monotonic_clock, settings.bounds)


def _sink(settings: SinkSettings, index: int, dependencies: Dependencies) -> Sink:
    if isinstance(settings, StdoutSinkSettings):
        return StdoutSink(settings.label)
    if isinstance(settings, RedisSinkSettings):
        if dependencies.redis_for_log is None:
            text = "type: redis needs the section redis with the url or the Sentinels of a Redis"
            raise ConfigError([_problem(text, index, "type")])
        # Here, so that a process without this sink does not load redis-py, 10 MB.
        from accesslog.sinks.redis_stream import RedisStreamSink

        client = dependencies.redis_for_log(settings.timeout_ms)
        return RedisStreamSink(client, settings.stream, settings.max_entries, settings.label)
    if isinstance(settings, OtlpSinkSettings):
        return OtlpSink(
            _otlp_transport(settings, dependencies),
            dependencies.wall_clock,
            package_version(),
            settings.resource,
            settings.label,
        )
    if isinstance(settings, ParquetSinkSettings):
        with extra("parquet", index, "type"):
            import pyarrow  # noqa: F401, ICN001  # another process uses it
        return ParquetSink(
            settings.folder,
            Rotation(settings.max_bytes, settings.every_seconds),
            settings.label,
            clock=dependencies.monotonic_clock,
            wall_clock=dependencies.wall_clock,
        )
    if isinstance(settings, KafkaSinkSettings):
        with extra("kafka", index, "type"):
            import confluent_kafka  # noqa: F401  # the sink imports it in its thread
        properties = partial(_properties_of, settings)
        return KafkaSink(
            settings.servers, settings.topic, settings.timeout_ms / 1000, properties, settings.label
        )
    if settings.rotate is not None and settings.rotate.compression is Compression.ZSTD:
        with extra("zstd", index, "rotate", "compression"):
            import zstandard  # noqa: F401  # imported where it compresses
    return FileSink(
        settings.path,
        settings.label,
        mode=int(settings.mode, 8),
        fsync=settings.fsync,
        fsync_seconds=settings.fsync_seconds,
        clock=dependencies.monotonic_clock,
        rotation=None if settings.rotate is None else settings.rotate.rotation,
        wall_clock=dependencies.wall_clock,
    )


def _otlp_transport(settings: OtlpSinkSettings, dependencies: Dependencies) -> OtlpTransport:
    headers = partial(pairs_in, settings.headers_file, ":")
    timeout_seconds, compress = settings.timeout_ms / 1000, settings.compression == "gzip"
    if settings.protocol == "http":
        return OtlpHttp(
            settings.endpoint,
            headers,
            timeout_seconds,
            dependencies.wall_clock,
            compress=compress,
            ca_file=settings.ca_file,
        )
    from sidecars.services.otlp_grpc import OtlpGrpc

    return OtlpGrpc(settings.endpoint, headers, timeout_seconds, compress=compress, ca_file=settings.ca_file)


def _properties_of(settings: KafkaSinkSettings) -> dict[str, str]:
    """The properties of `settings`, and those in its file. Raises OSError."""
    return {**settings.properties, **pairs_in(settings.properties_file, "=")}
