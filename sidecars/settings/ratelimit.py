"""The `ratelimit:` section of the settings file."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.configfile import Block, Spelled
from ratelimit.deny_cache import MAX_ENTRIES
from ratelimit.files import FolderFiles
from ratelimit.rules import Algorithm, OnFailure, Options
from ratelimit.stats import MAX_REQUEST_KEYS
from ratelimit.stores.memory import MAX_BUCKETS
from ratelimit.stores.redis import MAX_WAITING, TIMEOUT_SECONDS
from sidecars.settings.listen import ConfigPath, ListenAddress, PlainAddress

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

    failures: int = Field(5, ge=1, le=1000, description="Failed calls in a row that open it.")
    open_seconds: float = Field(
        0.5, gt=0, le=60, description="Until one call tries again; grows to 8 times that while it fails."
    )


class RatelimitSettings(Block):
    """The ratelimit sidecar: limits requests."""

    listen: tuple[ListenAddress, ...] = Field(min_length=1, description="Where Envoy asks.")
    http: PlainAddress | None = Field(
        None,
        description="HTTP for callers without gRPC and for health checks: POST /json and GET /healthcheck. "
        "It is port 8080 of envoyproxy/ratelimit.",
    )
    limits: tuple[ConfigPath, ...] = Field(
        min_length=1, description="Limit files in the format of envoyproxy/ratelimit, and folders of them."
    )
    folder_files: FolderFiles = Field(
        FolderFiles.YAML,
        description="Which files of a folder are limit files: yaml (its own *.yaml, *.yml), visible (every "
        "file in it and its subfolders) or all (hidden ones, too). A warning names what is skipped.",
    )
    merge_domains: bool = Field(default=False, description="Several files may add to one domain.")
    store: Literal["memory", "redis"] = Field(
        "memory", description="redis: shared by all sidecars that name the same `redis:`."
    )
    algorithm: Algorithm = Field(
        Algorithm.TOKEN_BUCKET,
        description="Of rules and overrides that name none. fixed_window is that of envoyproxy/ratelimit.",
    )
    on_failure: OnFailure = Field(
        OnFailure.LOCAL,
        description="Of rules that name none, while the store is away: open (let pass), closed (refuse), "
        "local (count in this process).",
    )
    replicas: int = Field(
        1, ge=1, le=10_000, description="Sidecars that share the store: each counts its part when local."
    )
    shadow_mode: bool = Field(default=False, description="Refuse nothing; count and report as usual.")
    quota_mode: bool = Field(
        default=False,
        description="Make a quota of every limit: a request is refused only if all of its limits are over.",
    )
    spare_other_limits: bool = Field(
        default=False,
        description="Of a refused request, charge fixed windows only if they are over.",
    )
    near_limit_ratio: float = Field(
        0.8, ge=0, le=1, description="Where the metric near_limit begins, as part of the limit."
    )
    dynamic_metadata: Literal["off", "rule", "full"] = Field(
        "full",
        description="What Envoy's access log gets to know: the rule that decided, or the descriptors too. "
        "Choose rule where their values are secret (API keys).",
    )
    headers: HeaderSettings = HeaderSettings()
    """Response headers that this sidecar adds."""
    max_buckets: int = Field(
        MAX_BUCKETS, ge=1, description="In memory; beyond it the one unused for longest is forgotten."
    )
    max_metric_keys: int = Field(
        MAX_REQUEST_KEYS, ge=0, description="Metric keys made of values of requests (detailed_metric ...)."
    )
    metrics: Literal["native", "envoyproxy"] = Field(
        "native",
        description="envoyproxy: labels and types exactly as envoyproxy/ratelimit gives them to Prometheus.",
    )
    redis_prefix: str = Field("ratelimit:", max_length=64, description="Begins each key in Redis.")
    redis_timeout_ms: float = Field(
        TIMEOUT_SECONDS * 1000,
        gt=0,
        le=10_000,
        description="The longest a request waits for Redis. Below the timeout of Envoy's filter (20 ms).",
    )
    redis_max_waiting: int = Field(
        MAX_WAITING, ge=1, le=100_000, description="Requests that may wait for Redis; more follow on_failure."
    )
    deny_cache_max_entries: int = Field(
        MAX_ENTRIES,
        ge=0,
        le=1_000_000,
        description="Buckets in Redis known to refuse, until they would let the same request pass. 0: none.",
    )
    breaker: BreakerSettings = BreakerSettings()
    """When Redis is no longer asked, and for how long."""

    @property
    def options(self) -> Options:
        """Defaults for rules that do not set them."""
        return Options(self.algorithm, self.on_failure, self.replicas, self.merge_domains, self.folder_files)

    @model_validator(mode="after")
    def _header_names_differ(self) -> Self:
        names = {name.lower() for name in (self.headers.limit, self.headers.remaining, self.headers.reset)}
        if len(names) < 3:
            raise ValueError("headers: limit, remaining and reset need three different names")
        return self
