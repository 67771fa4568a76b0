"""Clients for `sidecars session` and `sidecars token`: over Redis, or over the admin port of a process."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from common.os_errors import in_words

ADMIN_SECONDS: Final = 10.0
"""Timeout for the admin port, whose handlers do not wait long."""

PATIENCE_SECONDS: Final = 5.0
"""Timeout for Redis: a person waits longer than a request."""


class AdminClient(Protocol):
    """What the commands need of the library's CredentialAdmin or of the admin port."""

    def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> Awaitable[dict[str, Any]]:
        """The token and the id of a new session."""

    def show_session(self, name: str) -> Awaitable[dict[str, Any] | None]:
        """The session of a token or an id."""

    def list_sessions(self, subject: str | None, limit: int) -> Awaitable[list[dict[str, Any]]]:
        """Open sessions."""

    def revoke_sessions(self, target: str, value: Any) -> Awaitable[int]:
        """How many sessions were ended."""

    def revoke_tokens(self, target: str, value: Any, issuer: str) -> Awaitable[dict[str, Any]]:
        """The revocation."""

    def list_revocations(self) -> Awaitable[list[dict[str, Any]]]:
        """What is revoked."""

    def clean_revocations(self) -> Awaitable[list[str]]:
        """What was removed because it could not be read."""


def admin_client(config: Path, block: str) -> AbstractAsyncContextManager[AdminClient]:
    """The client over Redis or over the admin port. Raises ConfigError."""
    from authz.policy.compile.load import load_policy
    from common.configfile import ConfigError
    from sidecars.settings.load import load_settings

    settings = load_settings(config, os.environ)
    if settings.authz is None:
        raise ConfigError.of(config, "has no section authz, so it has no sessions")
    credentials = load_policy(settings.authz.policy).credentials
    kept = getattr(credentials, block)
    if kept is None:
        raise ConfigError.of(settings.authz.policy[0], f"its credentials have no {block}")
    if kept.store == "memory":
        if settings.workers > 1:
            problem = f"with workers, {block} in memory are known to one only: write {block}.store: redis"
            raise ConfigError.of(settings.authz.policy[0], problem)
        return _admin_port(settings.admin)
    if settings.redis is None:
        raise ConfigError.of(config, f"has no section redis, which credentials.{block}.store: redis needs")
    if settings.redis.cluster is not None:
        raise ConfigError.of(config, f"names a cluster in redis, which cannot keep {block}")
    return _redis_desk(settings.redis, credentials)


@asynccontextmanager
async def _redis_desk(settings: Any, credentials: Any) -> AsyncIterator[AdminClient]:
    from prometheus_client import CollectorRegistry

    from authz.credentials import Credentials, CredentialsConfig
    from sidecars.process.redis import connect

    # Not the milliseconds of a request: a command that gives up has revoked nothing.
    patience_ms = round(PATIENCE_SECONDS * 1000)
    redis = connect(
        settings.model_copy(update={"connect_timeout_ms": patience_ms, "operation_timeout_ms": patience_ms})
    )
    # Only what is kept in Redis: the rest of the configuration needs files and servers of its own.
    kept = {
        name: block
        for name in ("sessions", "revocations")
        if (block := getattr(credentials, name)) is not None and block.store == "redis"
    }
    config = CredentialsConfig(**kept, lookup_timeout_seconds=PATIENCE_SECONDS)
    try:
        yield Credentials(
            config,
            registry=CollectorRegistry(),
            monotonic_clock=time.monotonic,
            random=lambda: 0.0,
            redis=redis,
        ).credential_admin
    finally:
        await redis.aclose()


@asynccontextmanager
async def _admin_port(settings: Any) -> AsyncIterator[AdminClient]:
    async with admin_session(settings) as (client, base):
        yield AdminPort(client, base)


@asynccontextmanager
async def admin_session(settings: Any) -> AsyncIterator[tuple[Any, str]]:
    """Open an HTTP client for the admin port of these AdminSettings, and name its base URL.

    Raises ValueError if the port is not known, and OSError or ValueError for a token that cannot be used.
    """
    import aiohttp

    from sidecars.transport.api.address import TcpAddress

    address, headers = settings.listen, settings.client_headers
    if isinstance(address, TcpAddress):
        port = address.port or await asyncio.to_thread(_port_in, settings.port_file)
        connector: aiohttp.BaseConnector = aiohttp.TCPConnector()
        base = f"http://{TcpAddress(address.host, port)}"
    else:
        path = "\0" + address.path[1:] if address.abstract else address.path
        connector, base = aiohttp.UnixConnector(path=path), "http://admin"
    timeout = aiohttp.ClientTimeout(total=ADMIN_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as client:
        yield client, base


def _port_in(file: Path | None) -> int:
    if file is None:
        raise ValueError("admin.listen has port 0 and no port_file, so the port is not known")
    return int(file.read_text(encoding="utf-8"))


class AdminPort:
    """Manages sessions and revocations of a running process over its admin port."""

    def __init__(self, client: Any, base: str) -> None:
        self._client = client
        self._base = base

    async def create_session(
        self, subject: str, scopes: Sequence[str], roles: Sequence[str], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The token and the id of a new session."""
        wish = {"subject": subject, "scopes": list(scopes), "roles": list(roles), "claims": dict(claims)}
        return dict(await self._request("POST", "/authz/sessions", json=wish))

    async def show_session(self, name: str) -> dict[str, Any] | None:
        """The session of a token or an id."""
        found = await self._request("POST", "/authz/sessions/show", json={"name": name})
        return None if found is None else dict(found)

    async def list_sessions(self, subject: str | None, limit: int) -> list[dict[str, Any]]:
        """Open sessions."""
        query = {"limit": str(limit)} | ({"subject": subject} if subject is not None else {})
        return list(await self._request("GET", "/authz/sessions", params=query))

    async def revoke_sessions(self, target: str, value: Any) -> int:
        """How many sessions were ended."""
        wish = {"target": target, "value": value}
        return int(await self._request("POST", "/authz/sessions/revoke", json=wish))

    async def revoke_tokens(self, target: str, value: Any, issuer: str) -> dict[str, Any]:
        """The revocation."""
        wish = {"target": target, "value": value, "issuer": issuer}
        return dict(await self._request("POST", "/authz/revocations", json=wish))

    async def list_revocations(self) -> list[dict[str, Any]]:
        """What is revoked."""
        return list(await self._request("GET", "/authz/revocations"))

    async def clean_revocations(self) -> list[str]:
        """Remove nothing: a list in memory holds only what this process has written."""
        return []

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        import aiohttp

        from authz.credentials.admin import CredentialAdminError
        from authz.credentials.core.store_errors import StoreUnavailableError

        try:
            async with self._client.request(method, self._base + path, **options) as response:
                body = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = in_words(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            raise StoreUnavailableError(f"the admin port {self._base} does not answer: {why}") from None
        if status == 200:
            return orjson.loads(body)
        if status in {404, 405}:
            raise CredentialAdminError("the admin port offers no sessions; set authz.session_admin: true")
        try:
            problem = orjson.loads(body)["error_description"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problem = f"HTTP status {status}"
        raise (CredentialAdminError if status in {400, 415} else StoreUnavailableError)(problem)
