"""The `throttle:` of the credentials block."""

from typing import Annotated

from pydantic import Field

from authz.credentials.core.block import Block
from authz.credentials.core.types import Seconds

Failures = Annotated[int, Field(ge=1, le=1_000_000)]


class ThrottleConfig(Block):
    """How many bad credentials are looked at. Beyond, what is not known already is refused with 429 unseen.

    Bad is what nobody could have been given: of a wrong signature, unknown, malformed. A token that has
    merely expired is not counted, and a bad one only when it is verified, not when it is remembered.
    """

    address_failures: Failures | None = 100
    """Of one client address (IPv6: of one /64), in `per_seconds`. The client is told by the source address
    and `trusted_hops`; behind a proxy that neither of them knows all clients are one."""
    subject_failures: Failures | None = 1000
    """In the name of one subject, whatever the address. Higher, because anybody may claim a name, and so
    keep its owner from signing in anew (what is remembered goes on); null turns it off."""
    per_seconds: Seconds = 60.0
    """The time over which the failures are counted, evenly refilled."""
    cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """Addresses and subjects counted, about 0.3 KB each; the one that failed longest ago gives way."""
