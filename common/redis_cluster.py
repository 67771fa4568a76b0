"""What is shared by all users of a Redis Cluster: slots, and who has them."""

from binascii import crc_hqx
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:  # else a process without a Redis would load redis-py, 9 MB
    from redis.asyncio import Redis

NodeAddress = tuple[str, int]
"""Host and port of a node."""

SLOTS: Final = 16_384


def key_slot(key: bytes) -> int:
    """Return the slot of `key`: CRC16 (XMODEM) of the key, or of the first non-empty part in braces."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Cluster(Protocol):
    """The nodes of a Redis Cluster."""

    @property
    def masters(self) -> frozenset[NodeAddress]:
        """The nodes that have slots, as far as is known."""

    def owner(self, slot: int) -> NodeAddress | None:
        """The node that has `slot`, as far as is known."""

    def client(self, address: NodeAddress) -> "Redis":
        """The client of one node. It stays the property of the cluster, which closes it."""

    def learn(self, slot: int, address: NodeAddress) -> None:
        """Note that a node named `address` as the one that has `slot` (MOVED)."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the event loop each time that other nodes have slots."""

    def suspect(self) -> None:
        """Look soon who has which slot: a node did not answer, or pointed to another."""

    async def load(self) -> None:
        """Ask who has which slot. Raises RedisError if no node tells."""
