"""The names of the headers, cookies and query parameters with credentials, which every log redacts."""

from collections.abc import Iterable

from authz.credentials.config import CredentialsConfig
from common.redaction import SecretNames


def secret_names(configs: Iterable[CredentialsConfig]) -> SecretNames:
    """Return every header, cookie and query parameter that one of these `credentials:` blocks reads.

    Each name counts for all three places: a client may put its cookie into the query by mistake.
    """
    locations = [where for config in configs for places in config.locations().values() for where in places]
    names = {name for where in locations for name in (where.header, where.cookie, where.query) if name}
    return SecretNames(frozenset(names), frozenset(names))
