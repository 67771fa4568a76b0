"""The `sessions:` and `revocations:` of the credentials block."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from authz.credentials.block import Block
from authz.credentials.location import LocationConfig
from authz.credentials.settings.types import Locations, Seconds

Prefix = Annotated[str, Field(min_length=1, max_length=128)]


class SessionsConfig(Block):
    """Opaque session tokens, and the store that knows them."""

    locations: Locations = (LocationConfig(cookie="session"),)
    store: Literal["memory", "redis"] = "memory"
    prefix: Prefix = "sidecars:session:"
    """In front of every Redis key."""
    idle_seconds: Seconds = 1800.0
    """A session unused for so long is over. Each use begins the time anew."""
    absolute_seconds: Seconds = 43200.0
    """A session ends so long after its creation, used or not."""
    max_sessions: Annotated[int, Field(ge=1)] = 100_000
    """The bound of the memory store (about 1 KB a session). Beyond it no session is created."""
    cached: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Sessions of Redis known to this process, about 2 KB each; the least recently used gives way."""
    cache_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    """The longest that Redis is not asked again. A revocation reaches every sidecar at once by a message;
    this is for how long one that missed the message, or all while Redis is away, may know no better."""

    ended_seconds: Annotated[float, Field(ge=0, le=31_536_000)] = 86400.0
    """How long Redis remembers that there was a session which has ended, by its hash, about 0.1 KB: a token
    of one is no guess, and does not count against its address."""

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> "SessionsConfig":
        if self.idle_seconds > self.absolute_seconds:
            raise ValueError("idle_seconds cannot be longer than absolute_seconds")
        return self


class RevocationsConfig(Block):
    """Tokens that are refused before they expire. Without this block none can be revoked."""

    store: Literal["memory", "redis"] = "memory"
    prefix: Prefix = "sidecars:revoked:"
    """In front of every Redis key."""
    keep_seconds: Seconds = 172_800.0
    """How long a revocation is kept: at least as long as a session or a token may live. So every issuer needs
    `max_lifetime_seconds` beside this block."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clock of an issuer may be ahead of Redis's, at least the `leeway_seconds` of every issuer.
    What is revoked as issued until now is what bears a time until now and this much later."""
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The bound of the list, about 0.5 KB each. Beyond it nothing more specific than `before` is taken."""
    stale_seconds: Seconds = 300.0
    """How long the list serves while Redis is away. Then every token is refused, since one of them might
    have been revoked; before the first list has come, too."""
