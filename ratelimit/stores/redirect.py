"""The answers of a Redis Cluster's node that point to another node."""

from enum import StrEnum

from redis.exceptions import AskError, MovedError, RedisError

from common.redis_cluster import NodeAddress
from ratelimit.stores.store import Failure, StoreError


class Redirect(StrEnum):
    """What a node asks for (Redis Cluster specification, "Redirection and resharding")."""

    MOVED = "moved"
    """Another node owns the slot."""
    ASK = "ask"
    """The slot is on its way to another node, and the key may be there already: ask there, this once."""
    TRY_AGAIN = "try_again"
    """The slot is on its way, and the keys of the call are on both nodes."""


class RedirectError(StoreError):
    """A node has charged nothing and points elsewhere.

    `address` is that of the other node, of this one for TRY_AGAIN; with an empty host, the host is the same.
    """

    def __init__(self, redirect: Redirect, address: NodeAddress, detail: str) -> None:
        super().__init__(Failure.REFUSED, detail)
        self.redirect = redirect
        self.address = address


def redirect_in(error: RedisError) -> RedirectError:
    """Return the redirect in an AskError, MovedError or TryAgainError."""
    detail = str(error)
    if isinstance(error, AskError):
        redirect = Redirect.MOVED if isinstance(error, MovedError) else Redirect.ASK
        return RedirectError(redirect, (error.host, error.port), f"{redirect} {detail}")
    return RedirectError(Redirect.TRY_AGAIN, ("", 0), detail)
