"""Takes secrets out of every record before anything else sees it.

Defaults stay redacted unless the settings allow them by name; a list of further names only ever adds. Every
log of the suite uses the same names and the same search (`redaction`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from accesslog.records.redact_rules import NO_RULES, RedactRules, Settled
from common.redaction import REDACTED, Secrets

_QUERIES: Final = ("query", "original_query")
_IDS: Final = ("request_id", "stream_id")
"""Made by Envoy, unless it takes those of clients (`preserve_external_request_id`)."""

_MADE_BY_ENVOY: Final = re.compile(r"[0-9a-f-]{36}")
_PATHS: Final = ("path", "original_path")
_TEXTS: Final = frozenset(
    {
        *("referer", "user_agent", "forwarded_for", "ratelimit_rule", "authority", "scheme"),
        *("tls_sni", "tls_peer_subject", "tls_peer_issuer"),
        *("code_details", "connection_termination_details"),
        *("upstream_transport_failure_reason", "downstream_transport_failure_reason"),
    }
)
"""Texts that clients choose, and those of Envoy that may repeat what a client or an upstream sent."""

_MAPS: Final = (
    "request_headers",
    "response_headers",
    "response_trailers",
    "tags",
    "filter_state",
    "metadata",
    "ratelimit_metadata",
)
_LISTS: Final = ("ratelimit_descriptors", "tls_peer_san")
_HASHED: Final = re.compile("(?:sha256|hmac):[0-9a-f]{16}")
"""What ratelimit writes instead of a secret value (`ratelimit.secret_values`), so that lines join."""

_RESPONSE_MAPS: Final = ("response_headers", "response_trailers")
_CHALLENGES: Final = frozenset({"www-authenticate", "proxy-authenticate"})
"""Headers of responses in which a scheme begins a challenge, which is not secret (RFC 9110, 11.6.1)."""


class Redaction:
    """The names to redact, compiled. Made once; `apply` is called for each record. Arguments as `Secrets`.

    `allowed` lists the defaults that are logged after all, so that the process can log a warning.
    """

    __slots__ = ("_cleaners", "_rules", "_secrets", "allowed", "knows")

    def __init__(
        self,
        headers: Iterable[str] = (),
        query_parameters: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        allow_query_parameters: Iterable[str] = (),
        rules: RedactRules = NO_RULES,
    ) -> None:
        self._rules = rules
        self._secrets = Secrets(headers, query_parameters, allow_headers, allow_query_parameters)
        self.allowed = self._secrets.allowed
        self._cleaners: Mapping[str, Callable[[Any, str, list[str]], Any]] = {
            **dict.fromkeys(_QUERIES, self._secrets.text),
            **dict.fromkeys(_IDS, self._id),
            **dict.fromkeys(_PATHS, self._path),
            **dict.fromkeys(_TEXTS, self._text),
            "authority": self._authority,
            **dict.fromkeys(_MAPS, self._map),
            **dict.fromkeys(_LISTS, self._list),
        }
        """What takes the secrets out of the value of a field."""
        self.knows = frozenset(self._cleaners)
        """The fields that `apply` may change; it leaves all others as they are."""

    @property
    def reads_paths(self) -> bool:
        """Whether a rule is about segments of paths, which may look harmless."""
        return self._rules.read_paths

    def apply(self, record: dict[str, Any]) -> None:
        """Replace every secret in `record` by `[redacted]` and list the places as its field `redacted`."""
        found: list[str] = []
        self._rules.apply(record, found)
        for field in self.knows.intersection(record):
            record[field] = self._cleaners[field](record[field], field, found)
        if found:
            # Each place once: a parameter repeated by the thousand must not make the record too large.
            record["redacted"] = sorted(set(found))

    def _id(self, text: str, field: str, found: list[str]) -> str:
        if not text or _MADE_BY_ENVOY.fullmatch(text) is not None:
            return text
        return self._secrets.value(text, field, found)

    def _path(self, path: str, field: str, found: list[str]) -> str:
        return self._rules.path(self._secrets.path(path, field, found), field, found)

    def _text(self, text: Any, field: str, found: list[str]) -> Any:
        if not isinstance(text, str) or self._secrets.is_harmless(text):
            return text
        return self._secrets.value(text, field, found)

    def _authority(self, text: str, field: str, found: list[str]) -> str:
        return self._secrets.authority(self._text(text, field, found), field, found)

    def _map(self, values: Any, field: str, found: list[str]) -> Any:
        if isinstance(values, dict):
            self._clean_map(values, field, found)
        return values

    def _list(self, items: Any, field: str, found: list[str]) -> Any:
        if isinstance(items, list):
            self._clean_list(items, field, found)
        return items

    def _clean_map(self, values: dict[str, Any], where: str, found: list[str]) -> None:
        secrets = self._secrets
        is_key, is_harmless = secrets.is_key, secrets.is_harmless
        for key, value in values.items():
            if isinstance(value, Settled):
                continue
            if is_key(key):
                values[key] = REDACTED
                found.append(f"{where}.{key}")
            elif isinstance(value, str):
                if not is_harmless(value):
                    challenges = where in _RESPONSE_MAPS and key.lower() in _CHALLENGES
                    clean = secrets.text if challenges else secrets.value
                    values[key] = clean(value, f"{where}.{key}", found)
            elif isinstance(value, dict):
                self._clean_map(value, f"{where}.{key}", found)
            elif isinstance(value, list):
                self._clean_list(value, f"{where}.{key}", found)

    def _clean_list(self, values: list[Any], where: str, found: list[str]) -> None:
        for index, value in enumerate(values):
            if isinstance(value, str):
                values[index] = self._clean_item(value, where, found)
            elif isinstance(value, dict):
                self._clean_map(value, where, found)
            elif isinstance(value, list):
                self._clean_list(value, where, found)

    def _clean_item(self, item: str, where: str, found: list[str]) -> str:
        """A text of a list, which in a descriptor of ratelimit is written key=value."""
        secrets = self._secrets
        name, equals, value = item.partition("=")
        if not equals:
            name, value = "", item
        elif secrets.is_key(name):
            if where.startswith(_LISTS) and _HASHED.fullmatch(value):
                return item
            found.append(f"{where}.{name}")
            return f"{name}={REDACTED}"
        if not secrets.is_harmless(value):
            place = f"{where}.{name}" if name else where
            item = f"{name}{equals}{secrets.value(value, place, found)}"
        return item if secrets.is_harmless(item) else secrets.text(item, where, found)
