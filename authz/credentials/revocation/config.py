"""The `revocations:` block of the credentials."""

from typing import Annotated, Literal

from pydantic import Field

from authz.credentials.core.types import Prefix, Seconds
from common.configfile import Block


class RevocationsConfig(Block):
    """The list of tokens that are refused before they expire. Without it, no token can be revoked."""

    store: Literal["memory", "redis"] = "memory"
    """`memory` for one sidecar; `redis` shares the list among all."""
    prefix: Prefix = "sidecars:revoked:"
    """The prefix of every Redis key."""
    retention_seconds: Seconds = 172_800.0
    """How long a revocation is kept: at least as long as a session or a token may live. Every issuer
    therefore needs `max_lifetime_seconds`."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clock of an issuer may be ahead of that of Redis: at least the `leeway_seconds` of every
    issuer. Revoking tokens issued until now covers an `iat` up to this much later."""
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The most entries, about 0.5 KB each. Beyond that, only revocations by `before` are accepted."""
    max_stale_seconds: Seconds = 300.0
    """How long the list serves while Redis cannot be reached. After that, and before the first load, every
    token is refused, since any of them may have been revoked."""
