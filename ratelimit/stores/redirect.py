"""The answers of a Redis Cluster's node that point to another node."""

from enum import StrEnum
from typing import Final

from redis.exceptions import AskError, MovedError, RedisError

from ratelimit.stores.store import Failure, StoreError

NodeAddress = tuple[str, int]
"""Host and port of a node."""

_SAME_HOST: Final = ""


class Redirect(StrEnum):
    """What a node asks for (Redis Cluster specification, "Redirection and resharding")."""

    MOVED = "moved"
    """Another node owns the slot."""
    ASK = "ask"
    """The slot is on its way to another node, and the key may be there already: ask there, this once."""
    TRY_AGAIN = "try_again"
    """The slot is on its way, and the keys of the call are on both nodes."""


class RedirectError(StoreError):
    """A node has charged nothing and points elsewhere. `address` is None for TRY_AGAIN.

    An empty host means the host of the node that answered.
    """

    def __init__(self, redirect: Redirect, address: NodeAddress | None, detail: str) -> None:
        super().__init__(Failure.REFUSED, detail)
        self.redirect = redirect
        self.address = address


def redirect_in(error: RedisError) -> RedirectError:
    """Return the redirect in an AskError, MovedError or TryAgainError."""
    detail = str(error)
    if isinstance(error, MovedError):
        return RedirectError(Redirect.MOVED, (error.host or _SAME_HOST, error.port), f"MOVED {detail}")
    if isinstance(error, AskError):
        return RedirectError(Redirect.ASK, (error.host or _SAME_HOST, error.port), f"ASK {detail}")
    return RedirectError(Redirect.TRY_AGAIN, None, detail)
