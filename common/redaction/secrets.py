"""Secrets in texts that clients choose: queries, URLs, paths, JSON, and any of them within another."""

import re
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Final
from urllib.parse import quote, unquote, unquote_plus

from common.redaction.names import DEFAULT_HEADERS, DEFAULT_QUERY_PARAMETERS, all_but, folded, secret_part
from common.redaction.tokens import SHORTEST, without_jwts, without_tokens
from common.redaction.userinfo import without_user_information

REDACTED: Final = "[redacted]"

LONGEST_TEXT: Final = 8192
"""How much of a text is searched for secrets; the rest is cut. Clients choose the texts (up to 60 kB), and a
parameter to redact costs microseconds. RFC 9110 section 4.1 asks that URIs of 8,000 octets be supported."""

MAX_DECODINGS: Final = 4
"""How deep values within values are looked into; each level costs the length of the text."""

LONGEST_REMEMBERED: Final = 256
"""The most names, and texts, that are remembered: clients choose them, and may fill half a MB each."""

MOST_VALUES: Final = 256
"""With escapes, and values within them, that are looked into in one text; each costs up to 20 us. A query of
a large form has 100."""

NAMES_REMEMBERED: Final = 2_048
TEXTS_REMEMBERED: Final = 2_048

_KEPT_IN_A_VALUE: Final = "[]=/:?;,@!$'()*+-._~\"{}\\ "
"""Characters that stay unescaped when a value is put together again: none that would end it."""

# Clients choose the texts, so each pattern must take time in proportion to their length: no two of its parts
# may compete for the same characters, and each attempt must end where the next may begin.
_ODD: Final = re.compile(r"[%+@\"'/\\\s]")
_REMARKABLE: Final = re.compile(r"[=%+@\"'/\\\s]")
"""One of these, or `eyJ`, is in every text that holds a secret: ids, times, hosts and versions have none."""

_MAY_HIDE: Final = re.compile(r"[=@\"'%+\s]|eyJ")
"""What a short text has if there is a secret in it."""

_NAMES: Final = re.compile(r"(?:^|[?&;#=])([^&;?#=]*)(?==)")
_JSON_NAME: Final = re.compile(
    r"""\\{0,8}["']([^"'\\]{1,128})\\{0,8}["']\s*(?::|=>)\s*"""
    r"""|(?<![\w-])([A-Za-z_][\w-]{1,63})\s*(?::|=>)\s*(?=\\{0,8}["'])"""
)
"""In quotes; or without them, before a value in quotes: JavaScript, GraphQL, Ruby."""

_JSON_VALUE: Final = re.compile(r"\\{0,8}\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[\[{].*|[^,}\]&\s]*", re.DOTALL)
"""Matches all that follows the start of an object or a list: redacting too much is the safer mistake."""

_JSON_ESCAPE: Final = re.compile(r"\\+u00([2-7][0-9a-fA-F])")
_WIDE_ESCAPE: Final = re.compile(r"%u00([2-7][0-9a-fA-F])")
"""Matches the bracketed session ids in paths of Microsoft's servers."""

# What an Authorization header begins with: IANA HTTP Authentication Schemes, and those of products.
_SCHEMES: Final = "aws4-hmac-sha256|bearer|dpop|hoba|negotiate|ntlm"
_SCHEMES_THAT_ARE_WORDS: Final = "api-?key|basic|digest|hawk|mutual|oauth|token"
_CREDENTIALS: Final = re.compile(
    rf"(?P<scheme>\s*(?:{_SCHEMES}|{_SCHEMES_THAT_ARE_WORDS})\s+)\S", re.IGNORECASE
)
_ENDS: Final = "&\"',;"


def _scheme_within(begin: str, begin_of_word: str) -> re.Pattern[str]:
    """Credentials within a text: after a word that may be a scheme, they are one word or parameters."""
    words = rf"{begin_of_word}(?:{_SCHEMES_THAT_ARE_WORDS})\s+(?=[^\s{_ENDS}]+(?:=|\s*(?:$|[{_ENDS}])))"
    return re.compile(
        rf"({begin}(?:{_SCHEMES})\s+|{words})[^\s{_ENDS}][^{_ENDS}]*",
        re.IGNORECASE,
    )


_BEHIND_NAME: Final = r"[=:\"']\s?"
_MAY_PRECEDE_SCHEME: Final = re.compile(r"[=:\"']")
_SCHEME: Final = _scheme_within(_BEHIND_NAME, _BEHIND_NAME)
_SCHEME_OF_A_VALUE: Final = _scheme_within(r"(?:^|[=:\"'\s,&/])", rf"(?:^|[,&/]|{_BEHIND_NAME})")
_LONG_SEGMENT: Final = re.compile(rf"[^/\\]{{{SHORTEST}}}")
_AFTER_SLASH: Final = re.compile(rf"([/\\])([^/\\?#&=;,\s\"'<>]{{{SHORTEST},}})")
_ODD_IN_A_PATH: Final = re.compile(r"[%;=:@,&?#\"'\\]")
_PIECES: Final = re.compile(r"([;,?#&=])")


class _Search:
    """What is found in one text, and how many more values of it may be looked into."""

    __slots__ = ("_where", "found", "left")

    def __init__(self, where: str, found: list[str]) -> None:
        self._where = where
        self.found = found
        self.left = MOST_VALUES

    def note(self, what: str) -> None:
        self.found.append(f"{self._where}.{what}")

    def noted(self, what: str, before: str, after: str) -> str:
        """`after`; noted where it is not what was there before."""
        if after != before:
            self.note(what)
        return after

    def may_look(self) -> bool:
        """Whether one more value may be looked into; noted where it may not, and then has to be redacted."""
        self.left -= 1
        if self.left < 0:
            self.note("not_searched")
        return self.left >= 0


class Secrets:
    """The names to redact, compiled; its methods return texts without secrets.

    `headers` and `query_parameters` add to the defaults. `allow_headers` and `allow_query_parameters` name
    defaults that are logged after all: ValueError for a name that is not a default. Each method appends the
    places of secrets to `found`, below `where`: `query.token`, `referer.userinfo`.
    """

    __slots__ = (
        "_harmless",
        "_key",
        "_long_key",
        "_long_parameter",
        "_parameter",
        "allowed",
        "has_authorization",
    )

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
        parameters = kept_parameters | more_parameters
        # A tag or a metadata key may hold what a header or a parameter held, so the maps know both.
        keys = ((kept_headers | kept_parameters) - shown) | more_parameters | more_headers
        self.has_authorization = "authorization" in keys
        self._long_parameter = partial(secret_part, secrets=parameters, shown=shown)
        self._long_key = partial(secret_part, secrets=keys, shown=shown)
        self._parameter = lru_cache(NAMES_REMEMBERED)(self._long_parameter)
        self._key = lru_cache(NAMES_REMEMBERED)(self._long_key)
        # Most texts come again: content types, user agents, outcomes.
        self._harmless = lru_cache(TEXTS_REMEMBERED)(self._is_harmless)

    def is_key(self, key: str) -> bool:
        """Whether a map holds a secret under `key`: the name of a header or of a parameter."""
        return bool(self._key(key) if len(key) <= LONGEST_REMEMBERED else self._long_key(key))

    def is_harmless(self, text: str) -> bool:
        """Whether `text` is short, known to hold no secret, and no value of an Authorization header."""
        return len(text) <= LONGEST_REMEMBERED and self._harmless(text)

    def text(self, text: str, where: str, found: list[str]) -> str:
        """Any text, which may be or hold a query, a URL or JSON, without secrets."""
        if (
            len(text) <= LONGEST_REMEMBERED
            and _ODD.search(text) is None
            and "eyJ" not in text
            and ("=" not in text or not any(map(self._parameter, _NAMES.findall(text))))
        ):
            return text  # the common query: nothing in it but names and values
        text = shortened(text)
        there = len(found)
        cleaned = self._clean(text, _Search(where, found), 0)
        return cleaned if len(found) > there else text

    def credentials(self, text: str, where: str, found: list[str]) -> str:
        """The scheme alone of a value of an Authorization header. Any other text stays as it is."""
        if not self.has_authorization or (match := _CREDENTIALS.match(text)) is None:
            return text
        found.append(where)
        return match["scheme"] + REDACTED

    def value(self, text: str, where: str, found: list[str]) -> str:
        """The whole value of a header, whatever its name, without secrets."""
        return self.text(self.credentials(text, where, found), where, found)

    def authority(self, text: str, where: str, found: list[str]) -> str:
        """A Host or `:authority` without user information (RFC 9110 section 4.2.4)."""
        if "@" not in text:
            return text
        found.append(f"{where}.userinfo")
        return f"{REDACTED}@{text.rpartition('@')[2]}"

    def path(self, path: str, where: str, found: list[str]) -> str:
        """A path without what looks like a token and without secrets in its parameters, URLs and JSON."""
        if _LONG_SEGMENT.search(path) is None and _ODD_IN_A_PATH.search(path) is None:
            return shortened(path)
        path = shortened(path)
        search = _Search(where, found)
        if "@" in path:
            path = search.noted("userinfo", path, without_user_information(path, REDACTED))
        if '"' in path or "'" in path:
            path = self._json(path, search)
        return "/".join([self._segment(segment, search) for segment in path.split("/")])

    def _is_harmless(self, text: str) -> bool:
        if _REMARKABLE.search(text) is None and "eyJ" not in text:
            return True
        found: list[str] = []
        self.value(text, "", found)
        return not found

    def _segment(self, segment: str, search: _Search) -> str:
        if len(segment) < SHORTEST and _ODD_IN_A_PATH.search(segment) is None:
            return segment
        if "%" in segment and self._hides(segment, search):
            return REDACTED
        without = without_tokens(without_jwts(segment, REDACTED), REDACTED)
        cleaned = search.noted("segment", segment, without)
        return self._matrix(cleaned, search) if "=" in cleaned else cleaned

    def _matrix(self, segment: str, search: _Search) -> str:
        """Parameters of a segment (RFC 3986 section 3.3), whose values end at `;` and `,`."""
        pieces = _PIECES.split(segment)
        for index in range(2, len(pieces), 2):
            part = self._named(pieces[index - 2]) if pieces[index - 1] == "=" else ""
            if part:
                end = next((at for at in range(index, len(pieces)) if pieces[at] in {";", ","}), len(pieces))
                pieces[index:end] = [REDACTED, *[""] * (end - index - 1)]
                search.note(part)
        return "".join(pieces)

    def _hides(self, segment: str, search: _Search) -> bool:
        """Whether there is a secret in the segment of a path once its escapes are decoded."""
        decoded = unquote(segment, errors="surrogateescape")
        if len(decoded) < SHORTEST and _MAY_HIDE.search(decoded) is None:
            return False
        if not search.may_look():
            return True
        there = len(search.found)
        self._clean(f"/{decoded}", search, 1)
        return len(search.found) > there

    def _clean(self, text: str, search: _Search, depth: int) -> str:
        if "eyJ" in text:
            text = search.noted("jwt", text, without_jwts(text, REDACTED))
        if "@" in text:
            text = search.noted("userinfo", text, without_user_information(text, REDACTED))
        if '"' in text or "'" in text:
            text = self._json(text, search)
        if (" " in text or "\t" in text) and self.has_authorization:
            # A text may begin with a challenge, which is not secret; see `credentials`.
            if depth:
                text = search.noted("authorization", text, _SCHEME_OF_A_VALUE.sub(rf"\1{REDACTED}", text))
            elif _MAY_PRECEDE_SCHEME.search(text) is not None:
                text = search.noted("authorization", text, _SCHEME.sub(rf"\1{REDACTED}", text))
        if "/" in text or "\\" in text:
            text = search.noted("segment", text, _AFTER_SLASH.sub(_without_tokens, text))
        return self._parameters_of(text, search, depth)

    def _parameters_of(self, text: str, search: _Search, depth: int) -> str:
        secret = "=" in text and any(map(self._named, _NAMES.findall(text)))
        if not secret and "%" not in text and "+" not in text:
            return text
        return "&".join([self._piece(piece, search, depth) for piece in text.split("&")])

    def _piece(self, piece: str, search: _Search, depth: int) -> str:
        for match in _NAMES.finditer(piece):
            part = self._named(match[1])
            if part:
                search.note(part)
                # To the end: servers differ on `;`, and redacting too much is the safer mistake.
                return f"{piece[: match.end()]}={REDACTED}"
        if depth >= MAX_DECODINGS or ("%" not in piece and "+" not in piece):
            return piece
        decoded = unquote_plus(piece, errors="surrogateescape")
        if "%u" in decoded:
            decoded = _WIDE_ESCAPE.sub(_character, decoded)
        if decoded == piece or (len(decoded) < SHORTEST and _MAY_HIDE.search(decoded) is None):
            return piece
        if not search.may_look():
            return REDACTED
        there = len(search.found)
        cleaned = self._clean(decoded, search, depth + 1)
        return (
            quote(cleaned, _KEPT_IN_A_VALUE, errors="surrogateescape").replace(" ", "+")
            if len(search.found) > there
            else piece
        )

    def _json(self, text: str, search: _Search) -> str:
        if "\\u" in text:
            text = _JSON_ESCAPE.sub(_character, text)
        parts: list[str] = []
        done = 0
        for name in _JSON_NAME.finditer(text):
            if name.start() >= done and (part := self._named(name[1] or name[2])):
                search.note(part)
                parts += (text[done : name.end()], f'"{REDACTED}"')
                value = _JSON_VALUE.match(text, name.end())
                done = value.end() if value else len(text)
        return "".join((*parts, text[done:]))

    def _named(self, name: str) -> str:
        return self._parameter(name) if len(name) <= LONGEST_REMEMBERED else self._long_parameter(name)


def _without_tokens(segment: re.Match[str]) -> str:
    return segment[1] + without_tokens(segment[2], REDACTED)


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))


def shortened(text: str) -> str:
    """`text`, cut to the length that is searched for secrets."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
