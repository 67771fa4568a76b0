"""Secrets in texts that clients choose: queries, URLs, paths, JSON, and any of them within another."""

import re
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Final
from urllib.parse import quote, unquote, unquote_plus

from redaction.names import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, all_but, folded, secret_part
from redaction.tokens import SHORTEST, without_jwts, without_tokens
from redaction.userinfo import without_user_information

REDACTED: Final = "[redacted]"

LONGEST_TEXT: Final = 8192
"""Of a text that is searched for secrets; the rest is cut. Clients choose the texts (Envoy takes 60 kB), and
a parameter to redact costs microseconds. RFC 9110 section 4.1 asks that URIs of 8,000 octets be supported."""

MAX_DECODINGS: Final = 4
"""How deep values within values are looked into; each level costs the length of the text."""

LONGEST_REMEMBERED: Final = 256
"""Of names and texts that are remembered: clients choose them, and may fill half a MB each."""

NAMES_REMEMBERED: Final = 2_048
TEXTS_REMEMBERED: Final = 2_048

_KEPT_IN_A_VALUE: Final = "[]=/:?;,@!$'()*+-._~\"{}\\ "
"""What is written as it is when a value is put together again: not what ends it."""

# Clients choose the texts, so each pattern must take time in proportion to their length: no two of its parts
# may compete for the same characters, and each attempt must end where the next may begin.
_ODD: Final = re.compile(r"[%+@\"']")
_NAMES: Final = re.compile(r"(?:^|[?&;#=])([^&;?#=]*)(?==)")
_JSON_NAME: Final = re.compile(r"\\{0,8}[\"']([^\"'\\]{1,128})\\{0,8}[\"']\s*:\s*")
_JSON_VALUE: Final = re.compile(r"\\{0,8}\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[\[{].*|[^,}\]&\s]*", re.DOTALL)
"""Of an object or a list all that follows: a little too much redacted is the better mistake."""
_JSON_ESCAPE: Final = re.compile(r"\\+u00([2-7][0-9a-fA-F])")
_CREDENTIALS: Final = re.compile(
    r"(?P<scheme>\s*(?:basic|bearer|digest|dpop|hoba|mutual|negotiate)\s+)\S", re.IGNORECASE
)
"""What an Authorization header holds (IANA HTTP Authentication Schemes), which a tag may rename."""
_SCHEME: Final = re.compile(
    r"((?:^|[=:\"'\s,&])(?:basic|bearer|digest|dpop|hoba|mutual|negotiate)\s+)[^\s&\"',;][^&\"',;]*",
    re.IGNORECASE,
)
_QUERY: Final = re.compile(r"[?#]")
_SLASHES: Final = re.compile(r"[/\\]")
_LONG_SEGMENT: Final = re.compile(rf"[^/]{{{SHORTEST}}}")
_ODD_IN_A_PATH: Final = re.compile(r"[%;=:@,&?#\"\\]")
_PIECES: Final = re.compile(r"([;,?#&=])")


class Secrets:
    """The names to redact, compiled, and the texts without what stands under them.

    `headers` and `query_parameters` add to the defaults. `allow_headers` and `allow_query_parameters` name
    those of the defaults that are to be logged after all: ValueError for a name that is not one of them.
    Each method appends to `found` where something was, below `where`: `query.token`, `referer.userinfo`.
    """

    __slots__ = ("_harmless", "_key", "_keys", "_parameter", "_parameters", "allowed", "has_authorization")

    def __init__(
        self,
        headers: Iterable[str] = (),
        query_parameters: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        allow_query_parameters: Iterable[str] = (),
    ) -> None:
        self.allowed = tuple(
            name.strip().lower().replace("_", "-")
            for names in (allow_headers, allow_query_parameters)
            for name in sorted(names)
        )
        kept_headers = all_but(DEFAULT_HEADERS, allow_headers, "header")
        kept_parameters = all_but(DEFAULT_QUERY_PARAMETERS, allow_query_parameters, "query parameter")
        shown = frozenset(map(folded, (*allow_headers, *allow_query_parameters)))
        more_parameters = frozenset(map(folded, query_parameters)) - {""}
        more_headers = frozenset(map(folded, headers)) - {""}
        self._parameters = kept_parameters | more_parameters
        # A tag or a metadata key may hold what a header or a parameter held, so the maps know both.
        self._keys = ((kept_headers | kept_parameters) - shown) | more_parameters | more_headers
        self.has_authorization = "authorization" in self._keys
        # Most texts come again: content types, user agents, outcomes.
        self._harmless = lru_cache(TEXTS_REMEMBERED)(self._is_harmless)
        self._parameter = lru_cache(NAMES_REMEMBERED)(partial(secret_part, secrets=self._parameters))
        self._key = lru_cache(NAMES_REMEMBERED)(partial(secret_part, secrets=self._keys))

    def is_key(self, key: str) -> bool:
        """Whether a map holds a secret under `key`: the name of a header or of a parameter."""
        return bool(self._key(key) if len(key) <= LONGEST_REMEMBERED else secret_part(key, self._keys))

    def query(self, text: str, where: str, found: list[str]) -> str:
        """A query, or any other text of parameters, without secrets."""
        if (
            len(text) <= LONGEST_REMEMBERED
            and _ODD.search(text) is None
            and "eyJ" not in text
            and not any(map(self._parameter, _NAMES.findall(text)))
        ):
            return text  # the common query: nothing in it but names and values
        text = shortened(text)
        there = len(found)
        cleaned = self._clean(text, where, found, 0)
        return cleaned if len(found) > there else text

    def is_harmless(self, text: str) -> bool:
        """Whether `text` is short, known to hold no secret, and no value of an Authorization header."""
        return len(text) <= LONGEST_REMEMBERED and self._harmless(text)

    def text(self, text: str, where: str, found: list[str]) -> str:
        """Any text, which may be or hold a URL, a query or JSON, without secrets."""
        text = self.query(text, where, found)
        if "/" in text and (text[0] == "/" or "://" in text):
            return self._url(text, where, found, 0)
        return text

    def credentials(self, text: str, where: str, found: list[str]) -> str:
        """What an Authorization header may hold: its scheme alone. Any other text as it is."""
        if not self.has_authorization or (match := _CREDENTIALS.match(text)) is None:
            return text
        found.append(where)
        return match["scheme"] + REDACTED

    def authority(self, text: str, where: str, found: list[str]) -> str:
        """A Host or `:authority` without user information (RFC 9110 section 4.2.4)."""
        if "@" not in text:
            return text
        found.append(f"{where}.userinfo")
        return f"{REDACTED}@{text.rpartition('@')[2]}"

    def path(self, path: str, where: str, found: list[str]) -> str:
        """A path without what looks like a token, and without the secrets of parameters and URLs in it."""
        if _LONG_SEGMENT.search(path) is None and _ODD_IN_A_PATH.search(path) is None:
            return shortened(path)
        path = shortened(path)
        if "@" in path:
            path = without_user_information(path, REDACTED, where, found)
        return "/".join([self._segment(segment, where, found, 0) for segment in path.split("/")])

    def _is_harmless(self, text: str) -> bool:
        found: list[str] = []
        self.credentials(text, "", found)
        if _ODD.search(text) is not None or "=" in text or "/" in text or "eyJ" in text:
            self.text(text, "", found)
        return not found

    def _segment(self, segment: str, where: str, found: list[str], depth: int) -> str:
        if len(segment) < SHORTEST and _ODD_IN_A_PATH.search(segment) is None:
            return segment
        if "%" in segment and depth < MAX_DECODINGS and self._hides(segment, where, found, depth):
            return REDACTED
        cleaned = without_tokens(segment, REDACTED)
        if cleaned != segment:
            found.append(f"{where}.segment")
        return self._matrix(cleaned, where, found) if "=" in cleaned else cleaned

    def _matrix(self, segment: str, where: str, found: list[str]) -> str:
        """Parameters of a segment (RFC 3986 section 3.3), whose values end at `;` and `,`."""
        pieces = _PIECES.split(segment)
        for index in range(2, len(pieces), 2):
            part = self._named(pieces[index - 2]) if pieces[index - 1] == "=" else ""
            if part:
                end = next((at for at in range(index, len(pieces)) if pieces[at] in {";", ","}), len(pieces))
                pieces[index:end] = [REDACTED, *[""] * (end - index - 1)]
                found.append(f"{where}.{part}")
        return "".join(pieces)

    def _hides(self, segment: str, where: str, found: list[str], depth: int) -> bool:
        """Whether there is a secret in the segment once its escapes are decoded."""
        decoded = unquote(segment, errors="surrogateescape")
        if decoded == segment:
            return False
        there = len(found)
        self._clean(decoded, where, found, depth + 1)
        for piece in _SLASHES.split(decoded):
            self._segment(piece, where, found, depth + 1)
        return len(found) > there

    def _clean(self, text: str, where: str, found: list[str], depth: int) -> str:
        if "eyJ" in text:
            without = without_jwts(text, REDACTED)
            if without != text:
                text = without
                found.append(f"{where}.jwt")
        if "@" in text:
            text = without_user_information(text, REDACTED, where, found)
        if '"' in text or "'" in text:
            text = self._json(text, where, found)
        if depth and " " in text and self.has_authorization:
            text, number = _SCHEME.subn(rf"\1{REDACTED}", text)
            if number:
                found.append(f"{where}.authorization")
        if depth and "/" in text:
            text = self._url(text, where, found, depth)
        return self._parameters_of(text, where, found, depth)

    def _url(self, url: str, where: str, found: list[str], depth: int) -> str:
        """`url` with its path cleaned: from the authority to the query."""
        scheme = url.find("://")
        start = max(url.find("/", scheme + 3), 0) if scheme >= 0 else 0
        query = _QUERY.search(url, start)
        end = query.start() if query else len(url)
        path = url[start:end]
        if _LONG_SEGMENT.search(path) is None and _ODD_IN_A_PATH.search(path) is None:
            return url
        segments = [self._segment(part, where, found, depth) for part in path.split("/")]
        return url[:start] + "/".join(segments) + url[end:]

    def _parameters_of(self, text: str, where: str, found: list[str], depth: int) -> str:
        names = _NAMES.findall(text)
        secret = any(map(self._named, names)) if names else False
        if not secret and "%" not in text and "+" not in text:
            return text
        return "&".join([self._piece(piece, where, found, depth) for piece in text.split("&")])

    def _piece(self, piece: str, where: str, found: list[str], depth: int) -> str:
        for match in _NAMES.finditer(piece):
            part = self._named(match[1])
            if part:
                found.append(f"{where}.{part}")
                # To the end: servers differ on `;`, and a little too much redacted is the better mistake.
                return f"{piece[: match.end()]}={REDACTED}"
        if depth >= MAX_DECODINGS or ("%" not in piece and "+" not in piece):
            return piece
        decoded = unquote_plus(piece, errors="surrogateescape")
        if decoded == piece:
            return piece
        there = len(found)
        cleaned = self._clean(decoded, where, found, depth + 1)
        return (
            quote(cleaned, _KEPT_IN_A_VALUE, errors="surrogateescape").replace(" ", "+")
            if len(found) > there
            else piece
        )

    def _json(self, text: str, where: str, found: list[str]) -> str:
        if "\\u" in text:
            text = _JSON_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)

        parts: list[str] = []
        done = 0
        for name in _JSON_NAME.finditer(text):
            if name.start() >= done and (part := self._named(name[1])):
                found.append(f"{where}.{part}")
                parts += (text[done : name.end()], f'"{REDACTED}"')
                value = _JSON_VALUE.match(text, name.end())
                done = value.end() if value else len(text)
        return "".join((*parts, text[done:]))

    def _named(self, name: str) -> str:
        return (
            self._parameter(name) if len(name) <= LONGEST_REMEMBERED else secret_part(name, self._parameters)
        )


def shortened(text: str) -> str:
    """`text`, cut where it is longer than what is searched for secrets."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
