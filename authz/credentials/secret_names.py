"""The names under which a policy takes credentials from requests: what every log has to redact."""

from collections.abc import Iterable

from authz.credentials.config import CredentialsConfig
from common.redaction import SecretNames


def secret_names(configs: Iterable[CredentialsConfig]) -> SecretNames:
    """Every header, cookie and query parameter that one of these `credentials:` blocks reads.

    Each counts as all of them: a client that errs puts its cookie into the query, and a tag may show either.
    """
    locations = [where for config in configs for places in config.locations().values() for where in places]
    names = {name for where in locations for name in (where.header, where.cookie, where.query) if name}
    return SecretNames(frozenset(names), frozenset(names))
