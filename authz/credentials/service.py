"""Serves the `credentials:` block of the policy across reloads."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from authz.credentials.admin import CredentialAdmin
from authz.credentials.backchannel_logout import LogoutReceiver
from authz.credentials.config import CredentialsConfig
from authz.credentials.core.metrics import CredentialMetrics, KeySetSchedule
from authz.credentials.dependencies import CredentialDependencies
from authz.credentials.factory import Compiled, compile_config
from authz.credentials.introspection.client import IntrospectionClient
from authz.credentials.introspection.config import IntrospectionConfig
from authz.credentials.jwt import fetch
from authz.credentials.reconciler import RevocationReconciler
from authz.credentials.revocation.redis_store import RedisRevocations, read_message
from authz.credentials.revocation.revocation_list import Revocations
from authz.credentials.revocation.subscriber import ResyncRequiredError, RevocationSubscriber
from authz.credentials.session.redis_store import RedisSessionStore
from authz.credentials.session.verifier import Sessions
from authz.request.identity import Authentication
from authz.request.request import Request
from common.background import background_work
from common.circuit_breaker import CircuitBreaker, CircuitState

_log = structlog.get_logger(__name__)

START_WAIT_SECONDS: Final = 2.0
"""The longest that a start waits for the first key sets; a slower identity provider does not delay it."""


class Credentials:
    """Finds out who sends a request.

    Lives as long as the process: `prepare` takes a changed configuration, and everything whose own
    configuration did not change (key sets, verified tokens, sessions in memory) stays.
    Raises ConfigError with every problem.
    """

    def __init__(
        self,
        config: CredentialsConfig,
        *,
        registry: CollectorRegistry,
        monotonic_clock: Callable[[], float],
        random: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        redis: Redis | None = None,
        introspection_client: Callable[[IntrospectionConfig], IntrospectionClient] = IntrospectionClient,
        fetch_document: fetch.Fetch = fetch.fetch,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._metrics = CredentialMetrics(monotonic_clock)
        self._dependencies = CredentialDependencies(
            fetch=fetch_document,
            introspection_client=introspection_client,
            wall_clock=wall_clock,
            monotonic_clock=monotonic_clock,
            random=random,
            redis=redis,
            random_bytes=random_bytes,
            metrics=self._metrics,
            redis_breaker=_logged_breaker(monotonic_clock, random),
        )
        self._subscriber: RevocationSubscriber | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._started = False
        self._serving = compile_config(config, self._dependencies, None)
        # Last, so that an unusable configuration leaves nothing behind.
        registry.register(self._metrics)
        self._subscriber = self._new_subscriber()
        self._measure()

    def authenticate(self, request: Request, now: float) -> Authentication | Awaitable[Authentication]:
        """Return who sent the request, or an awaitable of it if something must be fetched.

        `now` is in unix seconds. The awaitable ends within `lookup_timeout_seconds` of the configuration and
        may be cancelled at any time, so that a caller can bound it by its own deadline.
        """
        return self._serving.authenticator.authenticate(request, now)

    @property
    def config(self) -> CredentialsConfig:
        """The configuration in service."""
        return self._serving.config

    @property
    def sessions(self) -> Sessions | None:
        """The sessions; None if the configuration has none."""
        return self._serving.sessions

    @property
    def revocations(self) -> Revocations | None:
        """The list of tokens refused before they expire; None if the configuration has none."""
        return self._serving.revocations

    @property
    def logout(self) -> LogoutReceiver | None:
        """The receiver of logout tokens; None if no issuer is configured with `logout`."""
        return self._serving.logout

    @property
    def credential_admin(self) -> CredentialAdmin:
        """The operations on sessions and revocations that operators use."""
        return CredentialAdmin(
            self._serving.sessions, self._serving.revocations, self._dependencies.wall_clock
        )

    @property
    def watched_files(self) -> Sequence[Path]:
        """The files, besides the policy file, whose change causes a reload."""
        return tuple(self._serving.config.files())

    def prepare(self, config: CredentialsConfig) -> Callable[[], None]:
        """Compile `config`, possibly in a thread. Raises ConfigError.

        Returns a function that puts it into service; call that on the loop.
        """
        compiled = compile_config(config, self._dependencies, self._serving)
        return lambda: self._swap(compiled)

    async def start(self) -> None:
        """Start to fetch key sets and to receive revocations, and wait a little for the first of each.

        A server that cannot be reached is not an error.
        """
        self._started = True
        sources = self._serving.remote_keys()
        for source in sources:
            source.start()
        if self._serving.sessions is not None:
            self._serving.sessions.start()
        waits = [source.ready() for source in sources]
        if self._subscriber is not None:
            self._subscriber.start()
            waits.append(self._subscriber.ready())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_SECONDS):
                await asyncio.gather(*waits)

    async def stop(self) -> None:
        """Stop what `start` began, and write pending renewals."""
        self._started = False
        for source in self._serving.remote_keys():
            source.stop()
        await self._retire(self._subscriber, self._serving, None)
        await asyncio.gather(*self._leaving)

    def describe(self) -> dict[str, Any]:
        """Return the state for `/config`. Holds no secret, no token and no hash of either."""
        return self._serving.describe()

    def _swap(self, compiled: Compiled) -> None:
        before, self._serving = self._serving, compiled
        for source, keys in compiled.reread.items():
            source.replace(keys)
        kept = {id(issuer) for issuer in compiled.issuers.values()}
        for issuer in before.issuers.values():
            issuer.trusted = id(issuer) in kept
        old, new = set(before.remote_keys()), set(compiled.remote_keys())
        for started in new - old if self._started else ():
            started.start()
        for kept_on in old & new:
            kept_on.fetch_soon()
        for dropped in old - new:
            dropped.stop()
        old_subscriber = self._subscriber
        if (before.sessions, before.revocations) != (compiled.sessions, compiled.revocations):
            self._subscriber = self._new_subscriber()
        if self._started:
            if self._subscriber is not None:
                self._subscriber.start()
            if compiled.sessions is not None:
                compiled.sessions.start()
            leaving = asyncio.create_task(
                self._retire(
                    old_subscriber if old_subscriber is not self._subscriber else None, before, compiled
                )
            )
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        self._measure()

    async def _retire(
        self, subscriber: RevocationSubscriber | None, before: Compiled, after: Compiled | None
    ) -> None:
        """Stop what `after` no longer uses."""
        if subscriber is not None:
            await subscriber.stop()
        if before.sessions is not None and (after is None or after.sessions is not before.sessions):
            await before.sessions.stop()
        if before.introspector is not None and (
            after is None or after.introspector is not before.introspector
        ):
            await before.introspector.close()
            if before.introspection_client is not None:
                await before.introspection_client.close()

    def _new_subscriber(self) -> RevocationSubscriber | None:
        """Return the subscriber to the messages of other sidecars; None without a shared store."""
        sessions, revocations = self._serving.sessions, self._serving.revocations
        channels: dict[str, Callable[[bytes], None]] = {}
        if sessions is not None and isinstance(sessions.store, RedisSessionStore):
            channels[sessions.store.channel] = sessions.on_message
        shared = revocations.store if revocations is not None else None
        if revocations is not None and isinstance(shared, RedisRevocations):
            channels[shared.channel] = lambda message: revocations.add(read_message(message))
        if not channels or self._dependencies.redis is None:
            return None

        reconciler = RevocationReconciler(sessions, revocations, self._dependencies.random)

        async def begin() -> None:
            if sessions is not None:
                sessions.forget_all()
            if revocations is not None and revocations.store is not None:
                with background_work():
                    reconciler.kept = await revocations.store.load(revocations.limit)
                    await revocations.load(reconciler.kept)

        def tick(connected: bool) -> None:  # noqa: FBT001 - its one argument
            if revocations is not None and revocations.store is not None:
                if connected and revocations.needs_resync:
                    raise ResyncRequiredError("the list was longer than its bound")
                if connected:
                    revocations.confirm()
                revocations.expire()

        return RevocationSubscriber(
            self._dependencies.redis,
            channels,
            on_begin=begin,
            on_tick=tick,
            background=reconciler.run,
            random=self._dependencies.random,
        )

    def _measure(self) -> None:
        serving = self._serving
        remembered: dict[str, Sized | None] = {
            "tokens": serving.tokens.verified,
            "tokens_waiting": serving.tokens.cpu_budget,
            "sessions": serving.sessions,
            "introspected": serving.introspector,
            "revocations": serving.revocations,
            "failures": serving.throttle,
        }
        schedules = {
            issuer.issuer: KeySetSchedule(issuer.jwks.refresh_seconds, issuer.jwks.max_stale_seconds)
            for issuer in serving.config.issuers
            if issuer.jwks.file is None
        }
        stores = (serving.config.sessions, serving.config.revocations)
        uses_redis = any(block is not None and block.store == "redis" for block in stores)
        self._metrics.serve(
            {what: entries for what, entries in remembered.items() if entries is not None},
            schedules,
            self._subscriber,
            self._dependencies.redis_breaker if uses_redis else None,
            schedules,
        )


def _logged_breaker(clock: Callable[[], float], random: Callable[[], float]) -> CircuitBreaker:
    """Return a breaker that logs its changes with their cause."""

    def log_change(state: CircuitState) -> None:
        if state is CircuitState.CLOSED:
            _log.info("redis answers again")
        else:
            _log.warning("redis is not asked for a while", cause=breaker.cause)

    breaker = CircuitBreaker(clock, random, changed=log_change)
    return breaker
