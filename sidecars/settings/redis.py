"""The `redis` section: one client, shared by the sidecars of the process."""

from typing import Annotated, Final, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, model_validator

from common.configfile import Block
from sidecars.settings.listen import ConfigPath

DEFAULT_PORT: Final = 6379


def _redis_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises when it is not a port
        parameters = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(
            "expected redis://HOST:PORT/DB with a port up to 65535, or unix:///PATH?db=DB"
        ) from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB")
    if parts.scheme == "unix" and parts.hostname:  # redis-py would leave it out of the path
        raise ValueError("expected three slashes before the path, as in unix:///run/redis/redis.sock?db=0")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("expected a path, as in unix:///run/redis/redis.sock?db=0")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("expected a host, as in redis://127.0.0.1:6379/0")
    database = parameters.pop("db", "0") if parts.scheme == "unix" else parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("expected a database number, as in redis://127.0.0.1:6379/0 or unix:///PATH?db=0")
    if parameters:
        # redis-py lets a URL override its caller's timeouts; one place decides them, and it is this section.
        raise ValueError(f"unknown parameter {next(iter(parameters))!r}; write it as a key of this section")
    return url


def _sentinel_url(url: str) -> str:
    parts = urlsplit(_redis_url(url))
    if parts.scheme == "unix" or parts.path.strip("/"):
        raise ValueError("expected redis://HOST:26379 or rediss://HOST:26379, without a database")
    return url


def _node(node: str) -> str:
    host, colon, port = node.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("expected HOST:PORT, as in 10.0.0.2:6379")
    return node


class SentinelSettings(Block):
    """The Sentinels that know where the master is."""

    urls: tuple[Annotated[str, AfterValidator(_sentinel_url)], ...] = Field(
        min_length=1,
        repr=False,
        description="redis://HOST:26379 or rediss://HOST:26379 of each Sentinel. All are asked.",
    )
    username: str | None = Field(None, description="ACL user of the Sentinels; needs password_file.")
    password_file: ConfigPath | None = Field(
        None, description="File with the password of the Sentinels; read at each new connection."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.username and not self.password_file:
            raise ValueError("username needs password_file")
        if self.password_file and any("@" in url for url in self.urls):
            raise ValueError("the urls and password_file both hold credentials; keep one of them")
        return self


class ClusterSettings(Block):
    """The server in `url` is a node of a Redis Cluster."""

    nodes: tuple[Annotated[str, AfterValidator(_node)], ...] = Field(
        (),
        description="HOST:PORT of further nodes to start from, in case the one in url is down.",
    )


class RedisSettings(Block):
    """Where Redis is and how long a call may wait for it.

    Envoy gives a rate-limit call 20 ms by default (rate_limit_filter `timeout`), so what waits longer
    answers no one.
    """

    url: Annotated[str, AfterValidator(_redis_url)] = Field(
        repr=False,
        description="redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH?db=DB. "
        "With sentinel, HOST is the name of the master, without a port; with cluster, one of the nodes.",
        examples=["redis://127.0.0.1:6379/0", "unix:///run/redis/redis.sock?db=0"],
    )
    sentinel: SentinelSettings | None = Field(
        None, description="Ask these Sentinels where the master is, and follow it."
    )
    cluster: ClusterSettings | None = Field(
        None, description="Count in a Redis Cluster: each key at the node that has its slot."
    )
    username: str | None = Field(None, description="ACL user (Redis 6); needs password_file.")
    password_file: ConfigPath | None = Field(
        None, description="File with the password; read at each new connection, so it may be rotated."
    )
    ca_file: ConfigPath | None = Field(None, description="PEM certificates trusted for rediss://.")
    cert_file: ConfigPath | None = Field(None, description="PEM client certificate for rediss://.")
    key_file: ConfigPath | None = Field(None, description="PEM key of cert_file.")
    connect_timeout_ms: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Timeout of a new connection, which is rare; TLS needs two round trips.",
    )
    operation_timeout_ms: int = Field(
        10, ge=1, le=10_000, description="Timeout of one command, including the wait for a free connection."
    )
    health_check_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="An idle connection, not that of rate limits, is pinged before use; 0 turns it off.",
    )
    backoff_min_ms: int = Field(
        50, ge=1, le=60_000, description="How long calls fail at once after a failed connection ..."
    )
    backoff_max_ms: int = Field(
        100, ge=1, le=60_000, description="... which doubles with each further failure, up to this."
    )
    max_connections: int = Field(
        32,
        ge=4,
        le=1000,
        description="One more waits until a connection is free. Rate limits hold one (up to three for a node "
        "of a cluster), and the subscription that hears of revoked sessions and tokens holds another.",
    )

    @property
    def uses_tls(self) -> bool:
        """Whether connections to Redis or to its Sentinels use TLS."""
        urls = (self.url, *(() if self.sentinel is None else self.sentinel.urls))
        return any(urlsplit(url).scheme == "rediss" for url in urls)

    @property
    def master_name(self) -> str:
        """The host as it is written: the name of the master, where Sentinels know its address."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def seeds(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each node of a cluster that the settings name."""
        parts = urlsplit(self.url)
        first = parts.hostname or "", parts.port or DEFAULT_PORT
        named = () if self.cluster is None else self.cluster.nodes
        pairs = [node.rpartition(":") for node in named]
        return (first, *((host.strip("[]"), int(port)) for host, _, port in pairs))

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = urlsplit(self.url)
        if self.username and not self.password_file:
            raise ValueError("username needs password_file")
        if self.password_file and (parts.username or parts.password):
            raise ValueError("the url and password_file both hold credentials; keep one of them")
        if self.backoff_max_ms < self.backoff_min_ms:
            raise ValueError("backoff_max_ms must not be less than backoff_min_ms")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if not self.uses_tls and (self.ca_file or self.cert_file):
            raise ValueError("ca_file and cert_file are for TLS; write the url as rediss://HOST:PORT/DB")
        return self

    @model_validator(mode="after")
    def _check_topology(self) -> Self:
        parts = urlsplit(self.url)
        if self.sentinel is not None and self.cluster is not None:
            raise ValueError("sentinel and cluster exclude each other: a cluster replaces its own masters")
        if (self.sentinel or self.cluster) and parts.scheme == "unix":
            raise ValueError("sentinel and cluster need a url of redis:// or rediss://")
        if self.sentinel is not None and parts.port is not None:
            raise ValueError("with sentinel, url names the master and has no port, as in redis://mymaster/0")
        if self.cluster is not None and parts.path.strip("/") not in {"", "0"}:
            raise ValueError("a cluster has database 0 only")
        return self
