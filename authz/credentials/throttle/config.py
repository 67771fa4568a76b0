"""The `throttle:` of the credentials block."""

from typing import Annotated

from pydantic import Field

from authz.credentials.core.types import Seconds
from common.configfile import Block

Failures = Annotated[int, Field(ge=1, le=1_000_000)]


class ThrottleConfig(Block):
    """Limits failed credential checks. Beyond the limit, credentials that are not cached get 429 unchecked.

    A check fails for a credential that was never issued: a wrong signature, an unknown or a malformed one.
    An expired token does not count, and neither does a refusal from the cache.
    """

    address_failures: Failures | None = 100
    """Failures allowed for one client address (IPv6: one /64) in `per_seconds`. The source address and
    `trusted_hops` determine the client; all clients of a proxy unknown to both share one count."""
    subject_failures: Failures | None = 1000
    """Failures allowed for one claimed subject, from all addresses. Higher, because anyone may claim a name
    and so lock out new sign-ins of its owner (cached credentials still pass); null turns it off."""
    per_seconds: Seconds = 60.0
    """The time in which the allowance refills, evenly."""
    cache_max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """The most addresses and subjects counted, about 0.3 KB each; the oldest failure is evicted."""
