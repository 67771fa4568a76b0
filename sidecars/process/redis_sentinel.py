"""Where the master is, as its Sentinels say."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from common.redis_cluster import NodeAddress
from common.redis_errors import error_text
from common.tasks import cancel_and_wait

POLL_SECONDS: Final = 1.0
"""The time between two questions to all Sentinels, in case an event was missed."""

RETRY_SECONDS: Final = 0.5
"""The pause before a lost subscription to a Sentinel is made again."""

SUBSCRIBE_SECONDS: Final = 2.0
"""The timeout of a subscription."""

PROMOTES: Final = "+failover-state-send-slaveof-noone"
EVENTS: Final = (PROMOTES, "+promoted-slave", "+switch-master")
"""The first two come from the Sentinel that leads a failover, when it begins to promote a replica and when it
has seen that the replica is a master; the last comes from all when they have agreed."""

PROMOTION_SECONDS: Final = 3.0
"""How long a replica may take to become a master, and the Sentinels then to agree on it."""

ROLE_SECONDS: Final = 0.005
"""The time between two questions to a replica that is being promoted. The Sentinel asks it once a second, and
what is written to the old master until then is lost."""

_log = structlog.get_logger("sidecars.process")


@dataclass(frozen=True, slots=True)
class _Answer:
    address: NodeAddress
    epoch: int
    """Grows with each failover."""


class SentinelRoute:
    """Leads to the master `name`, as the answer with the highest epoch of `sentinels` says.

    `address` asks only while the address is unknown or doubted; `run` listens to every Sentinel, and asks
    them all when one tells of a failover. `client_of` makes a client for a replica that is being promoted.
    """

    def __init__(
        self, name: str, sentinels: Sequence[Redis], client_of: Callable[[NodeAddress], Redis]
    ) -> None:
        self._name = name
        self._client_of = client_of
        self._promotion: asyncio.Task[None] | None = None
        self._promised_until = 0.0
        self._sentinels = sentinels
        self._current: _Answer | None = None
        self._suspected = True
        self._asking: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[_Answer | None]] = set()
        self._event = asyncio.Event()
        self._moving: set[asyncio.Task[None]] = set()
        self._on_move: Callable[[NodeAddress], Awaitable[None]] | None = None
        self._problems: dict[int, str] = {}

    def on_move(self, move: Callable[[NodeAddress], Awaitable[None]]) -> None:
        """Set what runs for each new address of the master."""
        self._on_move = move

    async def address(self) -> NodeAddress:
        """The address of the master. Raises RedisError if no Sentinel has told it yet."""
        if self._suspected:
            await self._ask_together()
        if self._current is None:
            problems = "; ".join(dict.fromkeys(self._problems.values())) or "they do not answer"
            raise RedisConnectionError(f"no Sentinel names the master {self._name!r}: {problems}")
        return self._current.address

    def suspect(self) -> None:
        """Ask again before the next connection."""
        self._suspected = True
        self._event.set()

    def describe(self) -> dict[str, Any]:
        """What `/config` shows: the master, and the problems of the Sentinels."""
        master = None if self._current is None else f"{self._current.address[0]}:{self._current.address[1]}"
        problems = {
            _place(self._sentinels[number]): problem for number, problem in sorted(self._problems.items())
        }
        return {"master": master, "sentinels": len(self._sentinels), "sentinel_problems": problems}

    async def run(self) -> None:
        """Follow the master until cancelled."""
        listeners = [
            asyncio.create_task(self._listen(number), name="sentinel events")
            for number in range(len(self._sentinels))
        ]
        try:
            while True:
                await self._ask_together()
                self._event.clear()
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._event.wait()
                except TimeoutError:
                    continue
        finally:
            promotion = () if self._promotion is None else (self._promotion,)
            await cancel_and_wait(*listeners, *self._moving, *promotion)

    async def close(self) -> None:
        """End the questions under way, and close the connections to the Sentinels."""
        asking = () if self._asking is None else (self._asking,)
        await cancel_and_wait(*asking, *self._asked, *self._moving)
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def _listen(self, number: int) -> None:
        """Wake `run` when a Sentinel tells of a failover, and when it can be reached again."""
        while True:
            try:
                await self._receive(self._sentinels[number])
            except (RedisError, OSError, TimeoutError) as error:
                self._problems[number] = error_text(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _receive(self, sentinel: Redis) -> None:
        async with sentinel.pubsub() as events:
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                await events.subscribe(*EVENTS)
            silent = 0
            while True:
                message = await events.get_message(timeout=POLL_SECONDS)
                if message is not None:
                    silent = 0
                    if message["type"] == "message" and _text(message["channel"]) == PROMOTES:
                        self._expect(_text(message["data"]))
                    elif message["type"] in {"subscribe", "message"}:
                        self._event.set()
                    continue
                silent += 1
                if silent > 2:
                    raise TimeoutError("no sign of life")
                await events.ping()

    def _expect(self, event: str) -> None:
        """Follow the replica in `event` as soon as it is the master (`slave NAME IP PORT @ MASTER ...`)."""
        words = event.split()
        if len(words) < 6 or words[5] != self._name or not words[3].isdigit():
            return
        if self._promotion is None or self._promotion.done():
            address = words[2], int(words[3])
            self._promotion = asyncio.create_task(self._await_promotion(address), name="await promotion")

    async def _await_promotion(self, address: NodeAddress) -> None:
        replica: Any = self._client_of(address)
        try:
            async with asyncio.timeout(PROMOTION_SECONDS):
                while True:
                    if await _is_master(replica):
                        break
                    await asyncio.sleep(ROLE_SECONDS)
            if self._current is not None and self._current.address != address:
                self._promised_until = asyncio.get_running_loop().time() + PROMOTION_SECONDS
                self._use(_Answer(address, self._current.epoch))
        except TimeoutError:
            _log.info("redis replica was not promoted", replica=f"{address[0]}:{address[1]}")
        finally:
            await replica.aclose()

    async def _ask_together(self) -> None:
        """Ask all Sentinels, once for all who wait."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="ask sentinels")
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        self._suspected = False
        asked = [asyncio.create_task(self._ask_one(number)) for number in range(len(self._sentinels))]
        # They end within their timeouts. Cancelled, each would close its connection.
        self._asked.update(asked)
        for task in asked:
            task.add_done_callback(self._asked.discard)
        answers: list[_Answer] = []
        for ended in asyncio.as_completed(asked):
            answer = await ended
            if answer is not None:
                answers.append(answer)
            # A Sentinel that hangs must not hold up the others, nor one that was cut off decide alone.
            if 2 * len(answers) > len(asked):
                break
        if not answers:
            self._suspected = True
            return
        best = max(answers, key=lambda answer: answer.epoch)
        current = self._current
        # Epochs start again when an operator removes the master from the Sentinels and adds another.
        unknown = current is None or all(answer.address != current.address for answer in answers)
        promised = asyncio.get_running_loop().time() < self._promised_until
        if (unknown and not promised) or (current is not None and best.epoch > current.epoch):
            self._use(best)

    def _use(self, answer: _Answer) -> None:
        moved = self._current is None or self._current.address != answer.address
        before, self._current = self._current, answer
        if moved:
            host, port = answer.address
            _log.info(
                "redis master found" if before is None else "redis master moved", master=f"{host}:{port}"
            )
            if self._on_move is not None:
                task = asyncio.ensure_future(self._on_move(answer.address))
                self._moving.add(task)
                task.add_done_callback(self._moving.discard)

    async def _ask_one(self, number: int) -> _Answer | None:
        sentinel: Any = self._sentinels[number]
        try:
            # In this order: between the two, the address can only become newer than the epoch.
            state = await sentinel.execute_command("SENTINEL", "MASTER", self._name)
            found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        except (RedisError, OSError, TimeoutError) as error:
            self._problems[number] = error_text(error)
            return None
        if not found:
            self._problems[number] = "it does not know this master"
            return None
        self._problems.pop(number, None)
        fields = dict(zip(map(_text, state[::2]), map(_text, state[1::2]), strict=False))
        return _Answer((_text(found[0]), int(found[1])), int(fields.get("config-epoch", "0")))


async def _is_master(replica: Any) -> bool:
    """Return whether `replica` says that it is a master. It closes its connections when it becomes one."""
    try:
        role = await replica.execute_command("ROLE")
    except (RedisError, OSError):
        return False
    return _text(role[0]) == "master"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _place(sentinel: Redis) -> str:
    options = sentinel.connection_pool.connection_kwargs
    return f"{options['host']}:{options.get('port', 6379)}"
