"""The request as rules and credentials see it."""

from collections.abc import Sequence
from typing import Protocol


class Request(Protocol):
    """What credentials read of a request (the concrete class replaces this one)."""

    def header_values(self, name: str) -> Sequence[str]:
        """Every value of the header (lower-case name), in order; empty when it is absent."""

    def cookie_values(self, name: str) -> Sequence[str]:
        """Every value of the cookie of this name, over all cookie headers."""

    def query_values(self, name: str) -> Sequence[str]:
        """Every decoded value of the query parameter."""

    @property
    def peer_principal(self) -> str:
        """The authenticated peer of the TLS connection (attributes.source.principal), or empty."""

    @property
    def client_address(self) -> str:
        """The true client's IP address, by source address and trusted hops."""
