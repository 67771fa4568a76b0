"""The Redis clients the sidecars share: short timeouts, no retries, fail at once while Redis is away."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from common.os_errors import in_words
from common.redis_cluster import NodeAddress
from sidecars.process.redis_pool import (
    FailFastPool,
    NoRetry,
    RedisRefusals,
    Route,
    RoutedConnection,
    RoutedTlsConnection,
)
from sidecars.process.redis_sentinel import SentinelRoute
from sidecars.settings.redis import RedisSettings


def connect(settings: RedisSettings, clock: Callable[[], float] = time.monotonic) -> Redis:
    """A client for the Redis of `settings`. Opens nothing: its first command does, and may raise RedisError.

    A command ends within the timeouts of `settings`. It is sent once: sent again after a lost reply, a
    rate-limit script would count its hits twice. `clock` counts seconds.

    With Sentinels the client leads to the master that they name, and `watch` follows it.
    """
    maker = ClientMaker(settings, clock)
    return maker.plain() if settings.sentinel is None else maker.master()


def watch(client: Redis) -> Coroutine[Any, Any, None] | None:
    """Return what must run as long as `client` is used, if anything: it follows the master."""
    pool = client.connection_pool
    if isinstance(pool, FailFastPool) and isinstance(pool.route, SentinelRoute):
        return pool.route.run()
    return None


@dataclass(frozen=True, slots=True)
class ClientMaker:
    """Makes the clients for one section of the settings."""

    settings: RedisSettings
    clock: Callable[[], float] = time.monotonic

    def plain(self, address: NodeAddress | None = None) -> Redis:
        """A client for the server in the URL, or with its credentials for another `address`."""
        options = self._options(self.settings.url)
        if address is not None:
            options["host"], options["port"] = address
        return self._client(options)

    def master(self) -> Redis:
        """A client for the master that the Sentinels name."""
        sentinel = self.settings.sentinel
        assert sentinel is not None  # noqa: S101  # for those alone who have one
        credentials = Credentials(sentinel.username, sentinel.password_file)
        sentinels = [self._client(self._options(url, credentials)) for url in sentinel.urls]
        route = SentinelRoute(self.settings.master_name, sentinels, self.plain)
        client = self.routed(route)
        pool = client.connection_pool
        assert isinstance(pool, FailFastPool)  # noqa: S101  # `routed` made it
        route.on_move(lambda address: pool.follow(address, self.settings.operation_timeout_ms / 1000))
        return client

    def routed(self, route: Route) -> Redis:
        """A client for the master that `route` leads to."""
        options = self._options(self.settings.url)
        tls = urlsplit(self.settings.url).scheme == "rediss"
        options |= {
            "connection_class": RoutedTlsConnection if tls else RoutedConnection,
            "redis_connect_func": _greet_master,
            "route": route,
        }
        del options["host"]
        options.pop("port", None)
        return self._client(options, route)

    def _options(self, url: str, credentials: "Credentials | None" = None) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            **parse_url(url),
            "max_connections": settings.max_connections,
            "socket_timeout": settings.operation_timeout_ms / 1000,
            "socket_connect_timeout": settings.connect_timeout_ms / 1000,
            "health_check_interval": settings.health_check_seconds,
            # RESP3 would cost a HELLO and a subscription in each handshake; nothing here needs it.
            "protocol": 2,
            # CLIENT SETINFO: two commands in each handshake, which Redis before 7.2 and a strict ACL refuse.
            "driver_info": None,
            "redis_connect_func": _greet,
        }
        credentials = credentials or Credentials(settings.username, settings.password_file)
        if credentials.file is not None:
            options["credential_provider"] = PasswordFile(credentials.username, credentials.file)
        if urlsplit(url).scheme == "rediss":
            options |= {
                "ssl_ca_certs": _text(settings.ca_file),
                "ssl_certfile": _text(settings.cert_file),
                "ssl_keyfile": _text(settings.key_file),
                # Python 3.13 and later verify like this by default: each Python accepts and refuses the same.
                "ssl_include_verify_flags": [ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN],
            }
        return options

    def _client(self, options: dict[str, Any], route: Route | None = None) -> Redis:
        settings, refusals = self.settings, RedisRefusals()
        pool = FailFastPool(retry=NoRetry(refusals, route), **options)
        pool.refusals = refusals
        pool.route = route
        pool.wait_at_most(settings.operation_timeout_ms / 1000)
        pool.back_off(settings.backoff_min_ms / 1000, settings.backoff_max_ms / 1000, self.clock)
        return Redis.from_pool(pool)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user, and the file with the password; None where the URL has them, or there are none."""

    username: str | None
    file: Path | None


async def _greet(connection: AbstractConnection) -> None:
    """Log in and wait for a reply: the kernel accepts connections even for a process that hangs."""
    await connection.on_connect()
    await connection.send_command("PING", check_health=False)
    with suppress(NoPermissionError):  # a refusal is an answer, too
        await connection.read_response()


async def _greet_master(connection: AbstractConnection) -> None:
    """Log in, and make sure that the server is a master: one that was replaced may have become a replica."""
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    with suppress(NoPermissionError):
        role = await connection.read_response()
        if role[0] not in {b"master", "master"}:
            raise RedisConnectionError(f"{connection._host_error()} is a replica, not the master")  # noqa: SLF001


def describe(client: Redis) -> dict[str, Any]:
    """What `/config` shows of `client`: connections, and why Redis is away or refuses."""
    pool = client.connection_pool
    if not isinstance(pool, FailFastPool):
        return {}
    sentinels = pool.route.describe() if isinstance(pool.route, SentinelRoute) else {}
    return {
        **sentinels,
        "state": _state(pool),
        "failed_connections_in_a_row": pool.failures,
        "last_error": pool.last_error,
        "refused": pool.refusals.times,
        "last_refusal": pool.refusals.last,
    }


def _state(pool: "FailFastPool") -> str:
    if pool.failures:
        return "refuses connections" if pool.refused_connection else "away"
    if pool.refusals.lasting:
        return "refuses"
    return "connected" if pool.connected else "no connection"


class PasswordFile(CredentialProvider):
    """Credentials from a file, read at each new connection: a rotated password needs no restart."""

    def __init__(self, username: str | None, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The password, or user name and password. Raises ConnectionError when the file cannot be read."""
        try:
            password = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            text = f"password_file {self._path} cannot be read: {in_words(error)}"
            raise RedisConnectionError(text) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """As `get_credentials`, without blocking the loop."""
        return await asyncio.to_thread(self.get_credentials)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
