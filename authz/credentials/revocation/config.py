"""The `revocations:` block of the credentials."""

from typing import Annotated, Literal

from pydantic import Field

from authz.credentials.core.block import Block
from authz.credentials.core.types import Prefix, Seconds


class RevocationsConfig(Block):
    """Tokens that are refused before they expire. Without this block none can be revoked."""

    store: Literal["memory", "redis"] = "memory"
    prefix: Prefix = "sidecars:revoked:"
    """In front of every Redis key."""
    retention_seconds: Seconds = 172_800.0
    """How long a revocation is kept: at least as long as a session or a token may live. So every issuer needs
    `max_lifetime_seconds` beside this block."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clock of an issuer may be ahead of Redis's, at least the `leeway_seconds` of every issuer.
    What is revoked as issued until now is what bears a time until now and this much later."""
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The bound of the list, about 0.5 KB each. Beyond it nothing more specific than `before` is taken."""
    max_stale_seconds: Seconds = 300.0
    """How long the list serves while Redis is away. Then every token is refused, since one of them might
    have been revoked; before the first list has come, too."""
