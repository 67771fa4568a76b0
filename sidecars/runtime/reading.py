"""The messages of a streaming call, read by a handler that the process may end."""

import asyncio
from collections.abc import AsyncIterator


class Reader:
    """Reads `messages` for the handler in whose task it is made, until they end or `stop` is called."""

    __slots__ = ("_messages", "_task", "stopped", "waiting")

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a streaming handler runs in a task
        self._task = task
        self._messages = messages
        self.stopped = False
        self.waiting = False
        """Whether the handler waits for the client now."""

    async def next(self) -> bytes | None:
        """The next message; None at the end of the request, and after `stop`."""
        return None if self.stopped else await self._wait()

    def stop(self) -> None:
        """Make `next` return None: at once if the handler waits for the client."""
        self.stopped = True
        if self.waiting:
            self._task.cancel()

    async def _wait(self) -> bytes | None:
        self.waiting = True
        try:
            return await anext(self._messages, None)
        except asyncio.CancelledError:
            # Cancelled by `stop`, the call goes on to its end; cancelled by the transport too, it does not.
            if self.stopped and self._task.uncancel() == 0:
                return None
            raise
        finally:
            self.waiting = False
