"""The `sessions:` of the credentials block."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from authz.credentials.core.location import LocationConfig
from authz.credentials.core.types import Locations, Prefix, Seconds
from common.configfile import Block


class SessionsConfig(Block):
    """Opaque session tokens, and the store of their sessions."""

    locations: Locations = (LocationConfig(cookie="session"),)
    """Where the session token is read from."""
    store: Literal["memory", "redis"] = "memory"
    """`memory` for one sidecar, until it restarts; `redis` shares sessions among all."""
    prefix: Prefix = "sidecars:session:"
    """The prefix of every Redis key."""
    idle_timeout_seconds: Seconds = 1800.0
    """A session ends when it is not used for this long. Each use restarts the time."""
    absolute_timeout_seconds: Seconds = 43200.0
    """A session ends this long after its creation, used or not."""
    max_sessions: Annotated[int, Field(ge=1)] = 100_000
    """The most sessions in the memory store (about 1 KB each). Beyond that, none is created."""
    cache_max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The most Redis sessions cached, about 2 KB each; the least recently used is evicted."""
    cache_ttl_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    """How long a session is cached before Redis is asked again. A message tells every sidecar of a revocation
    at once; a sidecar that misses it may serve the revoked session for this long."""
    ended_retention_seconds: Annotated[float, Field(ge=0, le=31_536_000)] = 86400.0
    """How long Redis keeps the hash of an ended session, about 0.1 KB. A token of such a session is not a
    guess, and does not count against its client address."""

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> "SessionsConfig":
        if self.idle_timeout_seconds > self.absolute_timeout_seconds:
            raise ValueError("idle_timeout_seconds cannot be longer than absolute_timeout_seconds")
        return self
