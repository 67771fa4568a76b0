"""The unfinished request messages of all connections of a server, which share one limit."""


class HeldBytes:
    """Counts the bytes of unfinished messages, and says who holds too many.

    Each connection has its share of the limit, which it may always hold: a peer that fills the rest stops no
    other.
    """

    __slots__ = ("_most", "connections", "total")

    def __init__(self, most: int) -> None:
        self._most = most
        self.total = 0
        """Bytes of the unfinished messages of all connections."""
        self.connections = 1
        """How many connections there are."""

    def exceeds_share(self, held: int) -> bool:
        """Whether the limit is exceeded, and by a connection that holds `held` bytes its share, too."""
        return self.total > self._most and held * self.connections > self._most
