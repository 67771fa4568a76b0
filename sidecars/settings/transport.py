"""The `connections` section: the transport's own limits, validated where they are defined."""

from common.configfile import Block
from sidecars.transport.api.limits import Lifetime, Limits


class ConnectionSettings(Block):
    """What peers may ask of the native transport. The defaults leave Envoy far from each limit."""

    limits: Limits = Limits()
    """The limits for one peer."""
    lifetime: Lifetime = Lifetime()
    """How long connections live, and which timeouts end them."""
