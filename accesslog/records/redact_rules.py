"""Rules that drop, mask or hash values by the names they have, before the search for secrets of any name."""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote_plus

import orjson

from common.redaction import REDACTED, folded

DIGITS: Final = 32
"""Hexadecimal digits of a hash: 128 bits, so that no two values share one by chance."""

SHORTEST_KEY: Final = 16
"""Bytes of a key (RFC 2104 section 3 discourages shorter ones)."""

_HEADER_MAPS: Final = ("request_headers", "response_headers", "response_trailers")
_QUERIES: Final = ("query", "original_query")
_METADATA: Final = ("metadata", "ratelimit_metadata", "tags", "filter_state")
_COOKIE_HEADERS: Final = frozenset({"cookie", "set-cookie"})


class Action(StrEnum):
    """What becomes of a value."""

    DROP = "drop"
    MASK = "mask"
    HASH = "hash"


class Settled(str):
    """A text that a rule has put in the place of a whole value: it needs no further redaction."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RedactRule:
    """Names of values of each kind, and what becomes of them.

    A name is compared by its letters and digits; between slashes it is a regular expression of RE2, which
    takes linear time and must match the whole name. `path_segments` are such expressions for whole segments.
    """

    action: Action
    headers: tuple[str, ...] = ()
    query_parameters: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    descriptors: tuple[str, ...] = ()
    path_segments: tuple[str, ...] = ()


Choose = Callable[[str], Action | None]


class RedactRules:
    """The rules, compiled. Raises ValueError for a bad expression, and for hashes without a key."""

    __slots__ = ("_cookies", "_descriptors", "_headers", "_key", "_metadata", "_query", "_segments")

    def __init__(self, rules: Iterable[RedactRule] = (), key: bytes = b"") -> None:
        rules = tuple(rules)
        if any(rule.action is Action.HASH for rule in rules) and len(key) < SHORTEST_KEY:
            raise ValueError(
                f"a rule hashes, which needs a key of at least {SHORTEST_KEY} bytes: hash_key_file"
            )
        self._key = key
        self._headers = _by_name((rule.action, rule.headers) for rule in rules)
        self._query = _by_name((rule.action, rule.query_parameters) for rule in rules)
        self._cookies = _by_name((rule.action, rule.cookies) for rule in rules)
        self._metadata = _by_name((rule.action, rule.metadata) for rule in rules)
        self._descriptors = _by_name((rule.action, rule.descriptors) for rule in rules)
        segments = ((rule.action, tuple(f"/{segment}/" for segment in rule.path_segments)) for rule in rules)
        self._segments = _by_name(segments)

    @property
    def read_paths(self) -> bool:
        """Whether some segments of paths are redacted."""
        return self._segments is not None

    def apply(self, record: dict[str, Any], found: list[str]) -> None:
        """Change `record` as the rules say, and append the places to `found`."""
        if self._headers is not None or self._cookies is not None:
            for field in _HEADER_MAPS:
                self._in_headers(record, field, found)
        if self._metadata is not None:
            for field in _METADATA:
                values = record.get(field)
                if isinstance(values, dict):
                    self._in_map(values, self._metadata, field, found)
                    if not values:
                        del record[field]
        if self._query is not None:
            for field in _QUERIES:
                if field in record:
                    record[field] = self._in_pieces(record[field], "&", self._query, field, found)
            address, question, query = record.get("referer", "").partition("?")
            if question:
                query = self._in_pieces(query, "&", self._query, "referer", found)
                record["referer"] = f"{address}?{query}"
        if self._descriptors is not None and isinstance(record.get("ratelimit_descriptors"), list):
            self._in_list(record["ratelimit_descriptors"], self._descriptors, "ratelimit_descriptors", found)

    def _in_headers(self, record: dict[str, Any], field: str, found: list[str]) -> None:
        headers = record.get(field)
        if not isinstance(headers, dict):
            return
        if self._headers is not None:
            self._in_map(headers, self._headers, field, found)
        if self._cookies is not None:
            for name in headers.keys() & _COOKIE_HEADERS:
                if not isinstance(headers[name], Settled):
                    headers[name] = self._in_pieces(
                        headers[name], ";", self._cookies, f"{field}.{name}", found
                    )
        if not headers:
            del record[field]

    def _in_map(self, values: dict[str, Any], choose: Choose, where: str, found: list[str]) -> None:
        for name in list(values):
            value, place = values[name], f"{where}.{name}"
            action = choose(name)
            if action is None:
                if isinstance(value, dict):
                    self._in_map(value, choose, place, found)
                elif isinstance(value, list):
                    self._in_list(value, choose, place, found)
                continue
            found.append(place)
            if action is Action.DROP:
                del values[name]
            else:
                values[name] = self._instead(
                    action, value if isinstance(value, str) else orjson.dumps(value).decode()
                )

    def _in_list(self, values: list[Any], choose: Choose, where: str, found: list[str]) -> None:
        for index, value in enumerate(values):
            if isinstance(value, dict):
                self._in_map(value, choose, where, found)
            elif isinstance(value, list):
                self._in_list(value, choose, where, found)
            elif isinstance(value, str) and "=" in value:
                values[index] = self._in_pieces(value, "\n", choose, where, found)

    def _in_pieces(self, text: str, separator: str, choose: Choose, where: str, found: list[str]) -> str:
        """A text of pieces `name=value`."""
        kept: list[str] = []
        changed = False
        for piece in text.split(separator):
            name, equals, value = piece.partition("=")
            action = choose(unquote_plus(name).strip()) if equals else None
            if action is None:
                kept.append(piece)
                continue
            changed = True
            found.append(f"{where}.{unquote_plus(name).strip()}")
            if action is not Action.DROP:
                kept.append(f"{name}={self._instead(action, value)}")
        # An ordinary text: what the rules left in it is still searched for secrets.
        return separator.join(kept) if changed else text

    def path(self, path: str, where: str, found: list[str]) -> str:
        """A path whose segments are as the rules say; what looks like a token was redacted before."""
        choose = self._segments
        if choose is None:
            return path
        segments = []
        for segment in path.split("/"):
            action = choose(segment) if segment else None
            if action is None:
                segments.append(segment)
                continue
            found.append(f"{where}.segment")
            if action is not Action.DROP:
                segments.append(self._instead(action, segment))
        return "/".join(segments)

    def _instead(self, action: Action, value: str) -> str:
        if action is Action.MASK or value == REDACTED:  # by an earlier redaction, so its value is not known
            return Settled(REDACTED)
        data = value.encode("utf-8", "surrogatepass")
        return Settled(f"hmac-{hmac.digest(self._key, data, 'sha256').hex()[:DIGITS]}")


def _by_name(rules: Iterable[tuple[Action, tuple[str, ...]]]) -> Choose | None:
    """What chooses the action for a name; None where no rule names any. The first rule decides."""
    names: dict[str, Action] = {}
    patterns: list[tuple[Any, Action]] = []
    for action, wanted in rules:
        for name in wanted:
            if len(name) > 1 and name[0] == name[-1] == "/":
                patterns.append((_compiled(name[1:-1]), action))
            elif folded(name):
                names.setdefault(folded(name), action)
            else:
                raise ValueError(f"{name!r} has no letter or digit to compare")
    if not names and not patterns:
        return None

    def choose(name: str) -> Action | None:
        action = names.get(folded(name)) if names else None
        if action is None:
            action = next((action for pattern, action in patterns if pattern.fullmatch(name)), None)
        return action

    return choose


def _compiled(pattern: str) -> Any:
    import re2  # here, so that a process without such rules does not load it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"/{pattern}/ is not a regular expression (RE2): {reason}") from None


NO_RULES: Final = RedactRules()
