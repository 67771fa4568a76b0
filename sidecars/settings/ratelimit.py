"""The `ratelimit:` section of the settings file."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from common.configfile import Block, ConfigError, Spelled
from common.os_errors import in_words
from ratelimit.bad_input import DEFAULT_BOUNDS, Bounds
from ratelimit.bans import MAX_BANS
from ratelimit.deny_cache import MAX_ENTRIES
from ratelimit.files import FolderFiles
from ratelimit.hot_keys import MAX_KEYS
from ratelimit.in_flight import MAX_IN_FLIGHT
from ratelimit.leases.leases import LEASE_SECONDS, LEASE_SHARE, MAX_LEASES
from ratelimit.normalise import IPV6_PREFIX, MAX_HOST_CHARACTERS, MAX_PATH_CHARACTERS
from ratelimit.quota.quotas import QuotaBounds
from ratelimit.rules import Algorithm, OnFailure, Options
from ratelimit.secret_values import SecretValues
from ratelimit.stats import MAX_REQUEST_KEYS
from ratelimit.stores.memory import MAX_BUCKETS
from ratelimit.stores.store import MAX_WAITING, TIMEOUT_SECONDS
from ratelimit.unmatched import MAX_SHAPES
from sidecars.settings.listen import ConfigPath, ListenAddress, PlainAddress
from sidecars.settings.xds import XdsSettings

QUOTA_BOUNDS: Final = QuotaBounds()

MIN_HMAC_KEY_BYTES: Final = 16
"""A shorter key can be searched for."""

_HeaderName = Annotated[str, Spelled(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "RateLimit-Limit")]


class HeaderSettings(Block):
    """Response headers this sidecar adds; Envoy makes its own X-RateLimit-* from the answer."""

    enabled: bool = Field(
        default=False,
        description="Add limit, remaining and reset of the rule that decided, as plain numbers.",
    )
    limit: _HeaderName = "RateLimit-Limit"
    """The header with the limit."""
    remaining: _HeaderName = "RateLimit-Remaining"
    """The header with what remains of it."""
    reset: _HeaderName = "RateLimit-Reset"
    """The header with the seconds until the limit is full again."""
    retry_after: bool = Field(
        default=True, description="Add Retry-After (RFC 9110 section 10.2.3) when a request is refused."
    )


class BreakerSettings(Block):
    """When to stop asking a Redis that does not answer."""

    failures: int = Field(5, ge=1, le=1000, description="Consecutive failed calls that open the breaker.")
    open_seconds: float = Field(
        0.5,
        gt=0,
        le=60,
        description="Time until one call tries again; it grows to 8 times this while calls fail.",
    )


class LeaseSettings(Block):
    """Leases: parts of limits in Redis that a sidecar takes in advance, to answer from memory."""

    by_default: bool = Field(
        default=False, description="Whether rules without `lease`, and overrides, have leases."
    )
    seconds: float = Field(
        LEASE_SECONDS,
        ge=0.1,
        le=60,
        description="A lease has tokens for so long at the rate of its key (for 1 % of a long window, up to "
        "a minute); what is unused then is returned.",
    )
    share: float = Field(
        LEASE_SHARE,
        gt=0,
        le=1,
        description="The part of a limit that may be leased, divided by the sidecars that share it.",
    )
    max_keys: int = Field(
        MAX_LEASES, ge=1, le=1_000_000, description="The most keys with a lease, of about 500 bytes each."
    )


class QuotaSettings(Block):
    """Quotas: parts of limits that Envoy's rate_limit_quota filter is assigned in advance.

    Envoy marks this protocol as work in progress.
    """

    enabled: bool = Field(default=False, description="Serve RateLimitQuotaService at `listen`, too.")
    assignment_seconds: int = Field(
        QUOTA_BOUNDS.seconds,
        ge=11,
        le=3_600,
        description="How long an assignment holds; as long, the part of an Envoy that went away is not free.",
    )
    idle_seconds: float = Field(
        QUOTA_BOUNDS.idle_seconds,
        ge=10,
        le=86_400,
        description="After so long without requests an Envoy is told to forget a bucket.",
    )
    max_streams: int = Field(
        QUOTA_BOUNDS.max_streams, ge=1, le=100_000, description="The most streams of Envoys at once."
    )
    max_stream_buckets: int = Field(
        QUOTA_BOUNDS.max_stream_buckets,
        ge=1,
        le=1_000_000,
        description="The most buckets of a stream; further ones get no assignment.",
    )
    max_buckets: int = Field(
        QUOTA_BOUNDS.max_buckets,
        ge=1,
        le=1_000_000,
        description="The most buckets of all streams, about 1 KB each; further ones get no assignment.",
    )
    max_entries: int = Field(
        QUOTA_BOUNDS.max_entries,
        ge=1,
        le=100,
        description="The most keys of a bucket id; one with more gets no assignment.",
    )
    max_id_length: int = Field(
        QUOTA_BOUNDS.max_id_length,
        ge=64,
        le=65_536,
        description="The most characters of keys and values of a bucket id; a longer one gets no assignment.",
    )

    @property
    def bounds(self) -> QuotaBounds:
        """What the library takes."""
        return QuotaBounds(
            self.assignment_seconds,
            self.idle_seconds,
            self.max_streams,
            self.max_stream_buckets,
            self.max_buckets,
            self.max_entries,
            self.max_id_length,
        )


class HashValuesSettings(Block):
    """Values of descriptors that metadata, metrics, logs and admin pages show as a hash.

    Defaults: those of keys named like a credential (authorization, cookie, session, api_key, user_token ...).
    """

    keys: tuple[str, ...] = Field((), description="Keys whose values are hashed in addition to the defaults.")
    allow: tuple[str, ...] = Field(
        (), description="Keys whose values are shown although the defaults hash them."
    )
    hmac_key_file: ConfigPath | None = Field(
        None,
        description="A file with the key of HMAC-SHA-256, 16 bytes or more. Default: SHA-256 without a "
        "key, with which a value that can be guessed can be found.",
    )

    @property
    def secrets(self) -> SecretValues:
        """The names, compiled. Raises ConfigError for a file without a key."""
        return SecretValues(
            self.keys, self.allow, b"" if self.hmac_key_file is None else _key(self.hmac_key_file)
        )


def _key(file: Path) -> bytes:
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError.of(file, f"cannot be read: {in_words(error)}") from None
    if len(key) < MIN_HMAC_KEY_BYTES:
        raise ConfigError.of(file, f"a key needs at least {MIN_HMAC_KEY_BYTES} bytes, found {len(key)}")
    return key


class RatelimitSettings(Block):
    """The ratelimit sidecar: limits requests."""

    listen: tuple[ListenAddress, ...] = Field(min_length=1, description="The addresses for Envoy.")
    http: PlainAddress | None = Field(
        None,
        description="HTTP for callers without gRPC and for health checks: POST /json and GET /healthcheck. "
        "It is port 8080 of envoyproxy/ratelimit.",
    )
    max_json_bytes: int = Field(
        65_536, ge=1_024, le=4_194_304, description="The largest body of /json; a larger one is 413."
    )
    limits: tuple[ConfigPath, ...] = Field(
        (),
        description="Limit files in the format of envoyproxy/ratelimit, and folders of them. Needed without "
        "`xds`.",
    )
    xds: XdsSettings | None = Field(
        None, description="A management server that sends limits, next to those in files. Default: none."
    )
    folder_files: FolderFiles = Field(
        FolderFiles.YAML,
        description="Which files of a folder are limit files: yaml (its own *.yaml, *.yml), visible (every "
        "file in it and its subfolders) or all (hidden ones, too). A warning names what is skipped.",
    )
    merge_domains: bool = Field(default=False, description="Several files may add to one domain.")
    store: Literal["memory", "redis"] = Field(
        "memory", description="redis: shared by all sidecars with the same `redis:`."
    )
    algorithm: Algorithm = Field(
        Algorithm.TOKEN_BUCKET,
        description="The default for rules and overrides. fixed_window is that of envoyproxy/ratelimit.",
    )
    on_failure: OnFailure = Field(
        OnFailure.LOCAL,
        description="The default for rules while the store is down: open (let pass), closed (refuse), "
        "local (count in this process).",
    )
    replicas: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="The number of sidecars that share the store and, with on_failure local, each limit. "
        "Default: they count themselves by a heartbeat in Redis.",
    )
    shadow_mode: bool = Field(default=False, description="Refuse nothing; count and report as usual.")
    quota_mode: bool = Field(
        default=False,
        description="Treat every limit as a quota: a request is refused only if all of its limits are over.",
    )
    spare_other_limits: bool = Field(
        default=False,
        description="For a refused request, charge only those fixed windows that are over.",
    )
    near_limit_ratio: float = Field(
        0.8, ge=0, le=1, description="The fraction of the limit from which near_limit counts."
    )
    dynamic_metadata: Literal["off", "rule", "full"] = Field(
        "full",
        description="What Envoy's access log gets to know: the rule that decided, or the descriptors too. "
        "Values that look like secrets are hashed (hash_values).",
    )
    hash_values: HashValuesSettings = HashValuesSettings()
    """Which values are shown as a hash."""
    headers: HeaderSettings = HeaderSettings()
    """Response headers that this sidecar adds."""
    max_descriptors: int = Field(
        DEFAULT_BOUNDS.max_descriptors,
        ge=1,
        le=10_000,
        description="The most descriptors of a request; one with more is INVALID_ARGUMENT.",
    )
    max_entries: int = Field(
        DEFAULT_BOUNDS.max_entries,
        ge=1,
        le=100_000,
        description="The most entries of a descriptor; a request with more is INVALID_ARGUMENT.",
    )
    max_key_length: int = Field(
        DEFAULT_BOUNDS.max_key_length,
        ge=64,
        le=65_536,
        description="The most characters of a bucket's name (domain, keys and values); a longer name is "
        "replaced by its hash.",
    )
    max_path_length: int = Field(
        MAX_PATH_CHARACTERS,
        ge=256,
        le=65_536,
        description="The characters of a path that normalise looks at; what follows is cut off.",
    )
    max_host_length: int = Field(
        MAX_HOST_CHARACTERS,
        ge=256,
        le=65_536,
        description="The characters of a host that normalise looks at; what follows is cut off.",
    )
    max_bans: int = Field(
        MAX_BANS,
        ge=1,
        le=1_000_000,
        description="The most keys that are banned at once; beyond it, the oldest ban ends early.",
    )
    ipv6_prefix: int = Field(
        IPV6_PREFIX,
        ge=16,
        le=128,
        description="The bits of an IPv6 address that count with normalise: address.",
    )
    max_buckets: int = Field(
        MAX_BUCKETS,
        ge=1,
        description="The most buckets in memory; beyond it, one that was not used lately is evicted.",
    )
    max_in_flight: int = Field(
        MAX_IN_FLIGHT,
        ge=0,
        description="The most slots of concurrency limits that metrics show; further ones are limited, too.",
    )
    max_metric_keys: int = Field(
        MAX_REQUEST_KEYS,
        ge=0,
        description="The most metric keys with values from requests (detailed_metric ...).",
    )
    max_unmatched: int = Field(
        MAX_SHAPES,
        ge=1,
        le=10_000,
        description="The most unknown domains, and kinds of descriptors without a limit (by domain and "
        "keys), that are counted and logged apart.",
    )
    metrics: Literal["native", "envoyproxy"] = Field(
        "native",
        description="envoyproxy: labels and types exactly as envoyproxy/ratelimit gives them to Prometheus.",
    )
    redis_prefix: str = Field("ratelimit:", max_length=64, description="The prefix of each key in Redis.")
    redis_timeout_ms: float = Field(
        TIMEOUT_SECONDS * 1000,
        gt=0,
        le=10_000,
        description="The longest wait for Redis. Keep it below the timeout of Envoy's filter (20 ms).",
    )
    redis_max_waiting: int = Field(
        MAX_WAITING,
        ge=1,
        le=100_000,
        description="The most requests that wait for Redis; further ones follow on_failure.",
    )
    deny_cache_max_entries: int = Field(
        MAX_ENTRIES,
        ge=0,
        le=1_000_000,
        description="Buckets in Redis known to refuse, until they would let the same request pass. 0: none.",
    )
    leases: LeaseSettings = LeaseSettings()
    """How hot keys are answered from memory, with store: redis."""
    quota: QuotaSettings = QuotaSettings()
    """What Envoys are assigned to decide by themselves."""
    hot_keys: int = Field(
        MAX_KEYS,
        ge=0,
        le=100_000,
        description="The most keys whose requests are counted for /limits/hot and the console, of about "
        "1 KB each. 0: none.",
    )
    breaker: BreakerSettings = BreakerSettings()
    """When calls to Redis stop, and for how long."""

    @property
    def options(self) -> Options:
        """Defaults for rules that do not set them. Raises ConfigError where `hash_values` lacks its key."""
        return Options(
            self.algorithm,
            self.on_failure,
            self.leases.by_default,
            self.replicas or 1,
            self.merge_domains,
            self.folder_files,
            self.hash_values.secrets,
            self.max_path_length,
            self.max_host_length,
            self.ipv6_prefix,
        )

    @property
    def bounds(self) -> Bounds:
        """What a request may hold at most."""
        return Bounds(self.max_descriptors, self.max_entries, self.max_key_length)

    @model_validator(mode="after")
    def _has_limits(self) -> Self:
        if not self.limits and self.xds is None:
            raise ValueError("limits: expected at least one file or folder, or a server in xds")
        return self

    @model_validator(mode="after")
    def _header_names_differ(self) -> Self:
        names = {name.lower() for name in (self.headers.limit, self.headers.remaining, self.headers.reset)}
        if len(names) < 3:
            raise ValueError("headers: limit, remaining and reset need three different names")
        return self
