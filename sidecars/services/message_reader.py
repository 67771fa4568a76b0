"""The messages of a streaming call, read by a handler that the process may end."""

import asyncio
from collections.abc import AsyncIterator


class Reader:
    """Reads `messages` for a handler, in the handler's own task, until they end or `stop` is called."""

    __slots__ = ("_messages", "_task", "stopped")

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = messages
        self._task: asyncio.Task[object] | None = None
        """The task that waits. Kept for longer it would make a cycle: the error that a task
        ends with leads to its frames, and from there here."""
        self.stopped = False

    @property
    def waiting(self) -> bool:
        """Whether the handler waits for the client now."""
        return self._task is not None

    async def next(self) -> bytes | None:
        """The next message; None at the end of the request, and after `stop`."""
        return None if self.stopped else await self._wait()

    def stop(self) -> None:
        """Make `next` return None: at once if the handler waits for the client."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _wait(self) -> bytes | None:
        self._task = asyncio.current_task()
        try:
            return await anext(self._messages, None)
        except asyncio.CancelledError:
            # Cancelled by `stop`, the call goes on to its end; cancelled by the transport too, it does not.
            if self.stopped and self._task is not None and self._task.uncancel() == 0:
                return None
            raise
        finally:
            self._task = None
