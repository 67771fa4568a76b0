"""Receives messages of other sidecars over Redis pub/sub, and notices when some may have been missed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from authz.credentials.core.store_errors import StoreUnavailableError
from common.redis_errors import error_text
from common.tasks import cancel_and_wait

PING_SECONDS: Final = 0.5
"""The interval of pings on a silent connection, which counts as lost after twice as long."""

RETRY_SECONDS: Final = 0.25
MAX_RETRY_SECONDS: Final = 2.0
"""The delay between attempts to subscribe doubles up to this. The load after it brings what was missed."""

SUBSCRIBE_SECONDS: Final = 2.0
"""The timeout of connecting and subscribing. The load that follows may take longer; each of its calls has
a timeout of its own."""

_log = structlog.get_logger(__name__)


class ResyncRequiredError(Exception):
    """A message could not be applied, so everything has to be loaded again."""


class RevocationSubscriber:
    """Keeps one subscription to several channels.

    `on_begin` runs after each subscription and before its messages are handled, to load what may have been
    missed. `background` runs while messages arrive, until it returns or the subscription is lost, and runs
    again with the next one. `on_tick` is called about twice a second with whether a subscription exists.
    """

    def __init__(
        self,
        redis: Redis,
        channels: Mapping[str, Callable[[bytes], None]],
        *,
        on_begin: Callable[[], Awaitable[None]],
        on_tick: Callable[[bool], None],
        background: Callable[[], Coroutine[Any, Any, None]],
        random: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._channels = dict(channels)
        self._on_begin = on_begin
        self._on_tick = on_tick
        self._background = background
        self._random = random
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self.connected = False
        self.problem = "not started"
        self.interruptions = 0

    def start(self) -> None:
        """Start to subscribe, on the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="revocation subscriber")

    async def ready(self) -> None:
        """Return once the first subscription exists."""
        await self._begun.wait()

    async def stop(self) -> None:
        """End the subscription."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)
        self.connected = False

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:  # any error: without this task no revocation arrives
                expected = isinstance(
                    error, RedisError | OSError | TimeoutError | StoreUnavailableError | ResyncRequiredError
                )
                known = isinstance(error, RedisError)
                self.problem = error_text(error) if known else str(error) or type(error).__name__
                if self.connected or failures == 0:
                    _log.warning("revocation subscription lost", problem=self.problem, exc_info=not expected)
            if self.connected:
                failures = 0
                self.interruptions += 1
            self.connected = False
            self._on_tick(False)
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(failures, 8))
            failures += 1
            await asyncio.sleep(delay * (1 - 0.5 * self._random()))

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                await pubsub.subscribe(*self._channels)
                confirmed = 0
                while confirmed < len(self._channels):
                    message = await pubsub.get_message(timeout=SUBSCRIBE_SECONDS)
                    confirmed += message is not None and message["type"] == "subscribe"
            await self._on_begin()
            self.connected, self.problem = True, ""
            self._begun.set()
            self._on_tick(True)
            background = asyncio.create_task(self._background(), name="revocation background work")
            try:
                await self._receive(pubsub)
            finally:
                await cancel_and_wait(background)

    async def _receive(self, pubsub: Any) -> None:
        silent = 0
        while True:
            message = await pubsub.get_message(timeout=PING_SECONDS)
            if message is None:
                silent += 1
                if silent > 2:
                    raise TimeoutError("no sign of life")
                async with asyncio.timeout(PING_SECONDS):
                    await pubsub.ping()
                continue
            silent = 0
            if message["type"] == "subscribe":
                # redis-py does this by itself if the connection was closed while no one read from it.
                raise ResyncRequiredError("subscribed again, messages may have been missed")
            if message["type"] == "message":
                self._deliver(message)
            self._on_tick(True)
            # While many messages wait, reading them would give no other task a turn.
            await asyncio.sleep(0)

    def _deliver(self, message: Mapping[str, Any]) -> None:
        channel, data = message["channel"], message["data"]
        handle = self._channels[channel.decode() if isinstance(channel, bytes) else channel]
        try:
            handle(data if isinstance(data, bytes) else str(data).encode())
        except ValueError as error:
            _log.warning("revocation message unreadable", problem=str(error))
