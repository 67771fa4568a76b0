"""The `sessions:` and `revocations:` of the credentials block."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from authz.credentials.core.block import Block
from authz.credentials.core.location import LocationConfig
from authz.credentials.core.types import Locations, Prefix, Seconds


class SessionsConfig(Block):
    """Opaque session tokens, and the store that knows them."""

    locations: Locations = (LocationConfig(cookie="session"),)
    store: Literal["memory", "redis"] = "memory"
    prefix: Prefix = "sidecars:session:"
    """In front of every Redis key."""
    idle_timeout_seconds: Seconds = 1800.0
    """A session unused for so long is over. Each use begins the time anew."""
    absolute_timeout_seconds: Seconds = 43200.0
    """A session ends so long after its creation, used or not."""
    max_sessions: Annotated[int, Field(ge=1)] = 100_000
    """The bound of the memory store (about 1 KB a session). Beyond it no session is created."""
    cache_max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Sessions of Redis known to this process, about 2 KB each; the least recently used gives way."""
    cache_ttl_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    """The longest that Redis is not asked again. A revocation reaches every sidecar at once by a message;
    this is for how long one that missed the message, or all while Redis is away, may know no better."""

    ended_retention_seconds: Annotated[float, Field(ge=0, le=31_536_000)] = 86400.0
    """How long Redis remembers that there was a session which has ended, by its hash, about 0.1 KB: a token
    of one is no guess, and does not count against its address."""

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> "SessionsConfig":
        if self.idle_timeout_seconds > self.absolute_timeout_seconds:
            raise ValueError("idle_timeout_seconds cannot be longer than absolute_timeout_seconds")
        return self
