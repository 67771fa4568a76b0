"""The labels that a metric key gets: ours, and those of envoyproxy/ratelimit."""

import re
from typing import Final

Path = tuple[str, ...]
"""The metric key of a rule: domain, then each level."""

Series = tuple[str, str, str]
"""The labels domain, key1 and key2. Prometheus treats an empty label as absent."""

_REPLACED: Final = str.maketrans(":|", "__")
_IPV4: Final = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", re.ASCII)
_NOT_OF_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")


def by_level(path: Path) -> Series:
    """Domain and first level; `key2` holds all further levels, joined by dots."""
    depth = len(path)
    return path[0], path[1] if depth > 1 else "", ".".join(path[2:]) if depth > 2 else ""


def by_dots(path: Path) -> Series:
    """The labels of envoyproxy/ratelimit: the first three parts between dots, wherever a dot comes from.

    It joins the levels by dots, and `:`, `|` and the dots of IPv4 addresses become `_` (SanitizeStatName).
    Its mapping for Prometheus splits that again and leaves out the rest (default_mapper.yaml).
    """
    parts = _sanitised(".".join(path)).split(".")
    domain, key1, key2, *_ = (*parts, "", "")
    return domain, key1, key2


def unknown_domain_metric(domain: str) -> str:
    """The name of envoyproxy/ratelimit's counter for an unknown `domain`; its mapping has no rule for it."""
    return f"ratelimit_service_rate_limit_{_NOT_OF_A_NAME.sub('_', _sanitised(domain))}_domain_not_found"


def _sanitised(key: str) -> str:
    return _IPV4.sub(lambda found: found[0].replace(".", "_"), key.translate(_REPLACED))
