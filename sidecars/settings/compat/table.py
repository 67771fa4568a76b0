"""Every variable that envoyproxy/ratelimit reads (src/settings/settings.go), and what becomes of it here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.configfile import key_path_text
from sidecars.settings.compat.values import boolean, integer, number, seconds, text

Values = Mapping[str, Any]
"""The value of each variable by its name, their defaults included."""


@dataclass(frozen=True, slots=True)
class Sets:
    """The value becomes that of the setting at `path`."""

    path: tuple[str, ...]
    convert: Callable[[Any], Any] = lambda value: value

    @property
    def here(self) -> str:
        """What the documentation says."""
        return f"`{key_path_text(self.path)}`"


@dataclass(frozen=True, slots=True)
class PartOf:
    """The value is one part of a setting; `compose` puts the parts together."""

    here: str


@dataclass(frozen=True, slots=True)
class Absent:
    """Only a value that asks for nothing is accepted; any other stops the start."""

    reason: str
    asks_nothing: Callable[[Any], bool] = lambda value: not value

    @property
    def here(self) -> str:
        """What the documentation says."""
        return f"absent: {self.reason}"


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Any value is accepted, and a line of the log says that it has no effect."""

    reason: str

    @property
    def here(self) -> str:
        """What the documentation says."""
        return f"no effect: {self.reason}"


Use = Sets | PartOf | Absent | NoEffect


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable."""

    name: str
    default: str
    """What envoyproxy/ratelimit assumes without it."""
    read: Callable[[str], Any]
    use: Use
    switches: tuple[str, ...] = ()
    """The variables without one of which this one is not looked at."""


_DAY_SECONDS: Final = 86_400.0
"""The longest grace of a connection; envoyproxy/ratelimit knows an endless one, 0."""

_LIMITS: Final = PartOf("`ratelimit.limits`")
_LISTEN: Final = PartOf("`ratelimit.listen`")
_TLS: Final = ("REDIS_TLS", "REDIS_PERSECOND_TLS")
_REDIS_URL: Final = PartOf("`redis.url`")
_XDS: Final = PartOf("`ratelimit.xds`, with CONFIG_TYPE=GRPC_XDS_SOTW")
_XDS_TLS: Final = ("CONFIG_GRPC_XDS_SERVER_USE_TLS",)
_REDIS_TYPE: Final = PartOf("`redis.sentinel` or `redis.cluster`")
_SENTINEL_AUTH: Final = PartOf("`redis.sentinel.urls`; better `username` and `password_file` next to them")
_WAITS: Final = Absent(
    "a request waits for a connection, as with WAIT", lambda value: value.upper() in {"", "WAIT"}
)
_MEMCACHED: Final = NoEffect("the store is Redis")
_STATSD: Final = Absent("scrape /metrics instead; set USE_STATSD=false", lambda _: False)
_TRACING: Final = NoEffect("traces are absent")
_BATCHES: Final = NoEffect("requests that arrive during a call to Redis share the next one")
_PARALLEL: Final = NoEffect(
    "the calls to each node of a cluster are one round trip, and nodes are asked in parallel"
)
_ANY_TIME: Final = NoEffect(
    "the process starts while Redis is away, and counts as `on_failure` says until it is back"
)


_HTTP: Final = (
    Variable("HOST", "0.0.0.0", text, PartOf("`ratelimit.http`")),
    Variable("PORT", "8080", integer, PartOf("`ratelimit.http`")),
    Variable("DEBUG_HOST", "0.0.0.0", text, PartOf("`admin.listen`")),
    Variable("DEBUG_PORT", "6070", integer, PartOf("`admin.listen`")),
)
_GRPC: Final = (
    Variable("GRPC_UDS", "", text, _LISTEN),
    Variable("GRPC_HOST", "0.0.0.0", text, _LISTEN),
    Variable("GRPC_PORT", "8081", integer, _LISTEN),
    Variable(
        "GRPC_MAX_CONNECTION_AGE",
        "24h",
        seconds,
        Sets(("connections", "lifetime", "max_age_seconds"), lambda age: age or None),
    ),
    Variable(
        "GRPC_MAX_CONNECTION_AGE_GRACE",
        "1h",
        seconds,
        Sets(
            ("connections", "lifetime", "max_age_grace_seconds"),
            lambda grace: min(grace or _DAY_SECONDS, _DAY_SECONDS),
        ),
    ),
    Variable("GRPC_SERVER_USE_TLS", "false", boolean, PartOf("`tls` of `ratelimit.listen`")),
    Variable("GRPC_SERVER_TLS_CERT", "", text, PartOf("`tls.cert_file`"), ("GRPC_SERVER_USE_TLS",)),
    Variable("GRPC_SERVER_TLS_KEY", "", text, PartOf("`tls.key_file`"), ("GRPC_SERVER_USE_TLS",)),
    Variable("GRPC_CLIENT_TLS_CACERT", "", text, PartOf("`tls.client_ca_file`"), ("GRPC_SERVER_USE_TLS",)),
    Variable(
        "GRPC_CLIENT_TLS_SAN",
        "",
        text,
        Absent("a client is known by its authority alone: use one that signs for Envoy only"),
        ("GRPC_SERVER_USE_TLS",),
    ),
)
_LOG: Final = (
    Variable("LOG_LEVEL", "WARN", text, PartOf("`log.level`")),
    Variable("LOG_FORMAT", "text", text, PartOf("`log.format`: `console` for `text`, or `json`")),
)
_CONFIG: Final = (
    Variable(
        "CONFIG_TYPE",
        "FILE",
        text,
        PartOf("`ratelimit.limits` for FILE, `ratelimit.xds` for GRPC_XDS_SOTW"),
    ),
    Variable(
        "FORCE_START_WITHOUT_INITIAL_CONFIG",
        "false",
        boolean,
        NoEffect("the start needs limits that can be loaded"),
    ),
    Variable(
        "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
        "false",
        boolean,
        NoEffect("the process is healthy only with limits"),
    ),
    Variable("CONFIG_GRPC_XDS_NODE_ID", "default", text, _XDS),
    Variable("CONFIG_GRPC_XDS_NODE_METADATA", "", text, _XDS),
    Variable("CONFIG_GRPC_XDS_SERVER_URL", "localhost:18000", text, _XDS),
    Variable(
        "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",
        "3s",
        seconds,
        NoEffect("the wait before another stream is XDS_CLIENT_BACKOFF_INITIAL_INTERVAL"),
    ),
    Variable(
        "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
        "",
        text,
        Absent("put NAME: VALUE lines into a file and name it in SIDECARS_RATELIMIT__XDS__HEADERS_FILE"),
    ),
    Variable("CONFIG_GRPC_XDS_SERVER_USE_TLS", "false", boolean, _XDS),
    Variable("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", "", text, _XDS, _XDS_TLS),
    Variable("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "", text, _XDS, _XDS_TLS),
    Variable("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", "", text, _XDS, _XDS_TLS),
    Variable("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "", text, _XDS, _XDS_TLS),
    Variable("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "10s", seconds, _XDS),
    Variable("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "60s", seconds, _XDS),
    Variable(
        "XDS_CLIENT_BACKOFF_RANDOM_FACTOR", "0.5", number, NoEffect("a random half of the wait is left out")
    ),
    Variable("XDS_CLIENT_BACKOFF_JITTER", "true", boolean, NoEffect("a random half of the wait is left out")),
    Variable("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "", text, _XDS),
    Variable("RUNTIME_ROOT", "/srv/runtime_data/current", text, _LIMITS),
    Variable("RUNTIME_SUBDIRECTORY", "", text, _LIMITS),
    Variable("RUNTIME_APPDIRECTORY", "config", text, _LIMITS),
    Variable(
        "RUNTIME_IGNOREDOTFILES",
        "false",
        boolean,
        PartOf("`ratelimit.folder_files`: `visible` if true, else `all`"),
    ),
    Variable(
        "RUNTIME_WATCH_ROOT", "true", boolean, PartOf("a changed file and a swapped link are both noticed")
    ),
    Variable("MERGE_DOMAIN_CONFIG", "false", boolean, Sets(("ratelimit", "merge_domains"))),
)
_STATS: Final = (
    Variable("USE_STATSD", "true", boolean, Absent("scrape /metrics instead; set USE_STATSD=false")),
    Variable("STATSD_HOST", "localhost", text, _STATSD, ("USE_STATSD",)),
    Variable("STATSD_PORT", "8125", integer, _STATSD, ("USE_STATSD",)),
    Variable(
        "USE_DOG_STATSD", "false", boolean, Absent("let Datadog's agent scrape /metrics (openmetrics check)")
    ),
    Variable("USE_DOG_STATSD_MOGRIFIERS", "", text, NoEffect("statsd is absent"), ("USE_DOG_STATSD",)),
    Variable("EXTRA_TAGS", "", text, Absent("add labels where metrics are scraped (relabeling)")),
    Variable("STATS_FLUSH_INTERVAL", "10s", seconds, NoEffect("metrics are read when they are scraped")),
    Variable("DISABLE_STATS", "false", boolean, NoEffect("metrics cost nothing until they are scraped")),
    Variable(
        "USE_PROMETHEUS", "false", boolean, PartOf("`admin.also_listen`; /metrics is on `admin.listen`, too")
    ),
    Variable("PROMETHEUS_ADDR", ":9090", text, PartOf("`admin.also_listen`"), ("USE_PROMETHEUS",)),
    Variable(
        "PROMETHEUS_PATH",
        "/metrics",
        text,
        Absent("the path is /metrics", lambda value: value in {"", "/metrics"}),
        ("USE_PROMETHEUS",),
    ),
    Variable(
        "PROMETHEUS_MAPPER_YAML", "", text, Absent("rename where metrics are scraped"), ("USE_PROMETHEUS",)
    ),
    Variable(
        "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
        "false",
        boolean,
        Absent("durations are in seconds"),
        ("USE_PROMETHEUS",),
    ),
)
_DENIAL_BYTES: Final = 400
"""What an entry of the deny cache takes, about."""

_COUNTING: Final = (
    Variable(
        "BACKEND_TYPE",
        "redis",
        text,
        Absent("memcached cannot count without losing hits; use Redis", lambda value: value in {"", "redis"}),
    ),
    Variable("EXPIRATION_JITTER_MAX_SECONDS", "300", integer, NoEffect("a key expires with its window")),
    Variable(
        "LOCAL_CACHE_SIZE_IN_BYTES",
        "0",
        integer,
        Sets(("ratelimit", "deny_cache_max_entries"), lambda size: min(-(-size // _DENIAL_BYTES), 1_000_000)),
    ),
    Variable("NEAR_LIMIT_RATIO", "0.8", number, Sets(("ratelimit", "near_limit_ratio"))),
    Variable("CACHE_KEY_PREFIX", "", text, Sets(("ratelimit", "redis_prefix"))),
    Variable(
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
        "false",
        boolean,
        Sets(("ratelimit", "spare_other_limits")),
    ),
    Variable("SHADOW_MODE", "false", boolean, Sets(("ratelimit", "shadow_mode"))),
    Variable("QUOTA_MODE", "false", boolean, Sets(("ratelimit", "quota_mode"))),
)
_ANSWERS: Final = (
    Variable("LIMIT_RESPONSE_HEADERS_ENABLED", "false", boolean, Sets(("ratelimit", "headers", "enabled"))),
    Variable("LIMIT_LIMIT_HEADER", "RateLimit-Limit", text, Sets(("ratelimit", "headers", "limit"))),
    Variable(
        "LIMIT_REMAINING_HEADER", "RateLimit-Remaining", text, Sets(("ratelimit", "headers", "remaining"))
    ),
    Variable("LIMIT_RESET_HEADER", "RateLimit-Reset", text, Sets(("ratelimit", "headers", "reset"))),
    Variable(
        "RESPONSE_DYNAMIC_METADATA",
        "false",
        boolean,
        Sets(("ratelimit", "dynamic_metadata"), lambda value: "full" if value else "off"),
    ),
)
_REDIS: Final = (
    Variable("REDIS_SOCKET_TYPE", "unix", text, _REDIS_URL),
    Variable(
        "REDIS_TYPE",
        "SINGLE",
        text,
        _REDIS_TYPE,
    ),
    Variable("REDIS_URL", "/var/run/nutcracker/ratelimit.sock", text, _REDIS_URL),
    Variable("REDIS_POOL_SIZE", "10", integer, Sets(("redis", "max_connections"), lambda size: max(4, size))),
    Variable(
        "REDIS_AUTH", "", text, PartOf("`redis.url`; better `redis.username` and `redis.password_file`")
    ),
    Variable("REDIS_TLS", "false", boolean, PartOf("`redis.url`: rediss://")),
    Variable("REDIS_TLS_CLIENT_CERT", "", text, PartOf("`redis.cert_file`"), _TLS),
    Variable("REDIS_TLS_CLIENT_KEY", "", text, PartOf("`redis.key_file`"), _TLS),
    Variable("REDIS_TLS_CACERT", "", text, PartOf("`redis.ca_file`"), _TLS),
    Variable(
        "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
        "false",
        boolean,
        Absent("the name in the certificate is always verified"),
        _TLS,
    ),
    Variable(
        "REDIS_TIMEOUT",
        "10s",
        seconds,
        PartOf("timeouts of `redis`, `ratelimit.redis_timeout_ms`; only if set"),
    ),
    Variable("REDIS_PIPELINE_WINDOW", "0", seconds, _BATCHES),
    Variable("REDIS_PIPELINE_LIMIT", "0", integer, _BATCHES),
    Variable("REDIS_CLUSTER_PIPELINE_PARALLELISM", "1", integer, _PARALLEL),
    Variable("REDIS_SENTINEL_AUTH", "", text, _SENTINEL_AUTH),
    Variable(
        "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",
        "false",
        boolean,
        Absent("the process stays healthy without Redis, and answers as `on_failure` says"),
    ),
    Variable(
        "REDIS_POOL_ON_EMPTY_BEHAVIOR",
        "WAIT",
        text,
        _WAITS,
    ),
    Variable("REDIS_STARTUP_INITIAL_INTERVAL", "1s", seconds, _ANY_TIME),
    Variable("REDIS_STARTUP_MAX_INTERVAL", "30s", seconds, _ANY_TIME),
    Variable("REDIS_STARTUP_MAX_ELAPSED_TIME", "0", seconds, _ANY_TIME),
)


def _per_second(name: str, default: str, read: Callable[[str], Any], use: Use) -> Variable:
    return Variable(f"REDIS_PERSECOND_{name}", default, read, use, ("REDIS_PERSECOND",))


_SECOND_URL: Final = PartOf("`redis_per_second.url`")
_PER_SECOND: Final = (
    Variable("REDIS_PERSECOND", "false", boolean, PartOf("the section `redis_per_second`")),
    _per_second("SOCKET_TYPE", "unix", text, _SECOND_URL),
    _per_second("TYPE", "SINGLE", text, PartOf("`redis_per_second.sentinel` or `.cluster`")),
    _per_second("URL", "/var/run/nutcracker/ratelimitpersecond.sock", text, _SECOND_URL),
    _per_second("POOL_SIZE", "10", integer, PartOf("`redis_per_second.max_connections`")),
    _per_second("AUTH", "", text, _SECOND_URL),
    _per_second("TLS", "false", boolean, PartOf("`redis_per_second.url`: rediss://; files of REDIS_TLS_*")),
    _per_second("SENTINEL_AUTH", "", text, PartOf("`redis_per_second.sentinel.urls`")),
    _per_second("PIPELINE_WINDOW", "0", seconds, _BATCHES),
    _per_second("PIPELINE_LIMIT", "0", integer, _BATCHES),
    _per_second("CLUSTER_PIPELINE_PARALLELISM", "1", integer, _PARALLEL),
    _per_second("TIMEOUT", "10s", seconds, PartOf("timeouts of `redis_per_second`; only if set")),
    _per_second("POOL_ON_EMPTY_BEHAVIOR", "WAIT", text, _WAITS),
)
_MEMCACHE: Final = tuple(
    Variable(f"MEMCACHE_{name}", default, read, _MEMCACHED)
    for name, default, read in (
        ("HOST_PORT", "", text),
        ("MAX_IDLE_CONNS", "2", integer),
        ("SRV", "", text),
        ("SRV_REFRESH", "0", seconds),
        ("TLS", "false", boolean),
        ("TLS_CLIENT_CERT", "", text),
        ("TLS_CLIENT_KEY", "", text),
        ("TLS_CACERT", "", text),
        ("TLS_SKIP_HOSTNAME_VERIFICATION", "false", boolean),
    )
)
_TRACES: Final = (
    Variable("TRACING_ENABLED", "false", boolean, Absent("the access log and metrics tell what happened")),
    Variable("TRACING_SERVICE_NAME", "RateLimit", text, _TRACING, ("TRACING_ENABLED",)),
    Variable("TRACING_SERVICE_NAMESPACE", "", text, _TRACING, ("TRACING_ENABLED",)),
    Variable("TRACING_SERVICE_INSTANCE_ID", "", text, _TRACING, ("TRACING_ENABLED",)),
    Variable("TRACING_EXPORTER_PROTOCOL", "http", text, _TRACING, ("TRACING_ENABLED",)),
    Variable("TRACING_SAMPLING_RATE", "1", number, _TRACING, ("TRACING_ENABLED",)),
)

_GROUPS: Final = (
    *(_GRPC, _HTTP, _LOG, _CONFIG, _STATS, _COUNTING, _ANSWERS),
    *(_REDIS, _PER_SECOND, _MEMCACHE, _TRACES),
)
VARIABLES: Final[Mapping[str, Variable]] = {one.name: one for group in _GROUPS for one in group}
