"""The `connections` section: the transport's own limits, validated where they are defined."""

from pydantic import BaseModel, ConfigDict

from sidecars.transport.api.limits import Lifetime, Limits


class ConnectionSettings(BaseModel):
    """What peers may ask of the native transport. The defaults leave Envoy far from each limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    limits: Limits = Limits()
    """The most that one peer may ask of the server."""
    lifetime: Lifetime = Lifetime()
    """How long connections live, and which timeouts end them."""
