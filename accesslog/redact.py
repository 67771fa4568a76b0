"""Secrets are taken out of every record before anything else sees it.

What is redacted by default stays redacted unless the settings allow it by name; a list of further names only
ever adds. A name matches whatever its case and whether it is written with `-` or `_`.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

DEFAULT_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"})
"""Credentials by RFC 9110 section 11, RFC 6265, and the common name of API keys."""

DEFAULT_QUERY_PARAMETERS = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "client_secret",
        "id_token",
        "password",
        "refresh_token",
        "token",
    }
)
"""Bearer tokens in the query (RFC 6750 section 2.3 warns that they end up in logs) and their relatives."""

REDACTED = "[redacted]"

LONGEST_TEXT = 8192
"""Of a text that is searched for secrets; the rest is cut. Clients choose the texts (Envoy takes 60 kB), and
a parameter to redact costs microseconds. RFC 9110 section 4.1 asks that URIs of 8,000 octets be supported."""

_QUERIES = ("query", "original_query")
_PATHS = ("path", "original_path")
_MAPS = (
    "request_headers",
    "response_headers",
    "response_trailers",
    "tags",
    "filter_state",
    "metadata",
    "ratelimit_metadata",
)
_LISTS = ("ratelimit_descriptors",)
_USER_INFORMATION = re.compile(r"//[^/?#\s@]*@")
_NEVER = re.compile(r"(?!)")
_CREDENTIALS = re.compile(
    r"(?P<scheme>\s*(?:basic|bearer|digest|dpop|hoba|mutual|negotiate)\s+)\S", re.IGNORECASE
)
"""What an Authorization header holds (IANA HTTP Authentication Schemes), which a tag may rename."""

_CHALLENGES = ("response_headers", "response_trailers")
"""Here a scheme begins a challenge (WWW-Authenticate), which is no secret."""

# Clients choose the texts, so each pattern must take time in proportion to their length: no two of its parts
# may compete for the same characters.
_ENCODED_NAME = re.compile(r"(?P<before>^|[?&;#])(?P<name>[^=&;?#%]*%[^=&;?#]*)=[^&]*")


class Redaction:
    """The names to redact, compiled. Made once; `apply` is called for each record.

    `headers` and `query_parameters` add to the defaults. `allow_headers` and `allow_query_parameters` name
    those of the defaults that are to be logged after all: ValueError for a name that is not one of them.
    `allowed` lists them, so that the process can say aloud what it does not protect.
    """

    __slots__ = ("_credentials", "_keys", "_parameters", "_path", "_url", "allowed")

    def __init__(
        self,
        headers: Iterable[str] = (),
        query_parameters: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        allow_query_parameters: Iterable[str] = (),
    ) -> None:
        kept_headers = _without(DEFAULT_HEADERS, allow_headers, "header")
        kept_parameters = _without(DEFAULT_QUERY_PARAMETERS, allow_query_parameters, "query parameter")
        self.allowed = (
            *sorted(_plain(name) for name in allow_headers),
            *sorted(_plain(name) for name in allow_query_parameters),
        )
        self._parameters = kept_parameters | {_plain(name) for name in query_parameters}
        # A tag or a metadata key may hold what a header or a parameter held, so the maps know both.
        self._keys = kept_headers | {_plain(name) for name in headers} | self._parameters
        self._credentials = _CREDENTIALS if "authorization" in self._keys else _NEVER
        self._url, self._path = _patterns(self._parameters)

    def apply(self, record: dict[str, Any]) -> None:
        """Replace every secret in `record` by `[redacted]` and list the places as its field `redacted`."""
        found: list[str] = []
        for field in _QUERIES:
            query = record.get(field)
            if query:
                record[field] = self._clean_url(query, field, found)
        for field in _PATHS:
            path = record.get(field)
            if path and ";" in path:
                record[field] = _replace(self._path, _shortened(path), field, found)
        referer = record.get("referer")
        if referer:
            record["referer"] = self._clean_text(referer, "referer", found)
        authority = record.get("authority")
        if authority and "@" in authority:
            record["authority"] = f"{REDACTED}@{authority.rpartition('@')[2]}"
            found.append("authority.userinfo")
        for field in _MAPS:
            values = record.get(field)
            if isinstance(values, dict):
                self._clean_map(values, field, found)
        for field in _LISTS:
            items = record.get(field)
            if isinstance(items, list):
                self._clean_list(items, field, found)
        if found:
            # Each place once: a parameter repeated by the thousand must not make the record too large.
            record["redacted"] = list(dict.fromkeys(found))

    def _clean_map(self, values: dict[str, Any], where: str, found: list[str]) -> None:
        for key, value in values.items():
            if key.lower().replace("_", "-") in self._keys:
                values[key] = REDACTED
                found.append(f"{where}.{key}")
            elif isinstance(value, str):
                credentials = self._credentials.match(value)
                if credentials and where not in _CHALLENGES:
                    values[key] = credentials["scheme"] + REDACTED
                    found.append(f"{where}.{key}")
                elif "=" in value or "%" in value or "@" in value:
                    values[key] = self._clean_text(value, f"{where}.{key}", found)
            elif isinstance(value, dict):
                self._clean_map(value, f"{where}.{key}", found)
            elif isinstance(value, list):
                self._clean_list(value, f"{where}.{key}", found)

    def _clean_list(self, values: list[Any], where: str, found: list[str]) -> None:
        for index, value in enumerate(values):
            if isinstance(value, str):
                # A descriptor of ratelimit is written key=value.
                name, equals, _ = value.partition("=")
                if equals and _plain(name) in self._keys:
                    values[index] = f"{name}={REDACTED}"
                    found.append(f"{where}.{name}")
                else:
                    values[index] = self._clean_text(value, where, found)
            elif isinstance(value, dict):
                self._clean_map(value, where, found)
            elif isinstance(value, list):
                self._clean_list(value, where, found)

    def _clean_text(self, text: str, where: str, found: list[str]) -> str:
        text = _shortened(text)
        if "@" in text and _USER_INFORMATION.search(text):
            text = _USER_INFORMATION.sub(f"//{REDACTED}@", text)
            found.append(f"{where}.userinfo")
        return self._clean_url(text, where, found)

    def _clean_url(self, text: str, where: str, found: list[str]) -> str:
        text = _shortened(text)
        if "%" in text:
            text = _ENCODED_NAME.sub(self._clean_encoded(where, found), text)
        return _replace(self._url, text, where, found)

    def _clean_encoded(self, where: str, found: list[str]) -> Callable[[re.Match[str]], str]:
        def clean(match: re.Match[str]) -> str:
            name = unquote(match["name"]).partition("[")[0]
            if _plain(name) not in self._parameters:
                return match[0]
            found.append(f"{where}.{name.strip().lower()}")
            return f"{match['before']}{match['name']}={REDACTED}"

        return clean


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _without(defaults: frozenset[str], allowed: Iterable[str], kind: str) -> frozenset[str]:
    by_plain_name = {_plain(name) for name in defaults}
    for name in allowed:
        if _plain(name) not in by_plain_name:
            known = ", ".join(sorted(defaults))
            raise ValueError(f"{name!r} is no {kind} redacted by default; those are {known}")
    return frozenset(by_plain_name - {_plain(name) for name in allowed})


def _patterns(parameters: Iterable[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Two patterns: parameters of a URL or query, and matrix parameters of a path (RFC 3986 section 3.3).

    A parameter may carry brackets (`token[]=`), and may stand percent-encoded in a URL that is itself the
    value of a parameter (`?next=https%3A%2F%2Fhost%2F%3Ftoken%3D...`). Its value ends at `&` alone: servers
    differ on `;`, and a little too much redacted is the better mistake.
    """
    names = "|".join(re.escape(name).replace(r"\-", "[-_]") for name in sorted(parameters))
    if not names:
        return _NEVER, _NEVER
    brackets = r"(?:\[[^\]=&;?#]{0,64}\])?"
    url = re.compile(
        rf"(?P<kept>(?:^|[?&;#]|%(?:3f|3b|26|23))(?P<name>{names}){brackets}(?:=|%3d))"
        r"(?:(?<==)[^&]*|(?<!=)(?:(?!%26)[^&])*)",
        re.IGNORECASE,
    )
    path = re.compile(rf"(?P<kept>;(?P<name>{names}){brackets}(?:=|%3d))[^;/]*", re.IGNORECASE)
    return url, path


def _replace(pattern: re.Pattern[str], text: str, where: str, found: list[str]) -> str:
    if pattern.search(text) is None:
        return text

    def clean(match: re.Match[str]) -> str:
        found.append(f"{where}.{match['name'].lower()}")
        return match["kept"] + REDACTED

    return pattern.sub(clean, text)
