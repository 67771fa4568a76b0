"""Bounds how many handlers of streaming calls a server runs at once, over all its connections."""

from typing import Final

ALWAYS_ADMITTED: Final = 8
"""Handlers that each connection may have, even at the limit. Envoy opens a stream for each of its access logs
on every connection, and usually has fewer logs."""


class Admission:
    """Counts each handler from its start until it has ended.

    A cancelled handler ends in a later turn of the loop than its stream: if open streams were counted, a peer
    could open and reset streams faster than their handlers end.
    """

    __slots__ = ("_by_connection", "_most", "_total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._by_connection: dict[object, int] = {}

    def has_room(self, connection: object) -> bool:
        """Whether one more handler of `connection` may start."""
        return self._total < self._most or self._by_connection.get(connection, 0) < ALWAYS_ADMITTED

    def started(self, connection: object) -> None:
        """Count a handler of `connection`, which is about to start."""
        self._total += 1
        self._by_connection[connection] = self._by_connection.get(connection, 0) + 1

    def ended(self, connection: object) -> None:
        """Give back the room of a handler of `connection`, which has ended."""
        self._total -= 1
        left = self._by_connection[connection] - 1
        if left:
            self._by_connection[connection] = left
        else:
            del self._by_connection[connection]
