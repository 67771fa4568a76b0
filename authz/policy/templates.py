"""Templates for headers, query parameters and metadata, filled with attributes of the caller."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.policy.types.names import split_name
from authz.request.body import values_at
from authz.request.identity import Identity
from authz.request.plain_text import is_plain, plain

MAX_VALUE_BYTES: Final = 4_096
"""A longer value is omitted, because upstreams would refuse the request (oauth2-proxy#1902)."""

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


def listed(values: Iterable[str], separator: str) -> str:
    """Join the values. A value that contains the separator is omitted, because it could pass for two.

    So is a value with control characters or outer blanks: a reader that splits the list reads ` admin` as
    `admin`.
    """
    return separator.join(sorted(value for value in values if separator not in value and is_plain(value)))


_SOURCES: Final[dict[str, Callable[[Identity], str]]] = {
    "subject": lambda identity: plain(identity.subject),
    "issuer": lambda identity: plain(identity.issuer),
    "scopes": lambda identity: listed(identity.scopes, " "),
    "roles": lambda identity: listed(identity.roles, ","),
    "audiences": lambda identity: listed(identity.audiences, ","),
    "credential": lambda identity: identity.kind.value,
}


@dataclass(frozen=True, slots=True)
class ValueTemplate:
    """A text with placeholders for attributes of the caller: `{subject}`, `tenant-{claims.tenant}`."""

    text: str
    parts: tuple[str | Callable[[Identity], str], ...]

    def fill(self, identity: Identity) -> str:
        """Return the value for this caller: empty, and so omitted, if too long or if a placeholder is empty.

        A placeholder is also empty if its value has control characters or outer blanks.
        """
        values = []
        for part in self.parts:
            value = part if isinstance(part, str) else part(identity)
            if not value:
                return ""
            values.append(value)
        value = "".join(values)
        return value if len(value.encode()) <= MAX_VALUE_BYTES else ""

    @property
    def of_caller(self) -> bool:
        """Whether the value depends on the caller."""
        return any(callable(part) for part in self.parts)

    def __str__(self) -> str:
        return self.text


def parse_value(value: Any) -> ValueTemplate:
    """A template from its text; a word such as `subject` alone is `{subject}`. Raises ValueError."""
    if not isinstance(value, str) or not value or len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"{value!r}: expected text, as in subject or '{{claims.email}}'")
    if not is_plain(value):
        raise ValueError(f"{value!r}: a value holds no control characters, and no blanks around it")
    if value in _SOURCES:
        return ValueTemplate(value, (_SOURCES[value],))
    parts: list[str | Callable[[Identity], str]] = []
    end = 0
    for place in _PLACEHOLDER.finditer(value):
        parts += [value[end : place.start()], _source(value, place[1])]
        end = place.end()
    parts.append(value[end:])
    plain = [part for part in parts if isinstance(part, str)]
    if any("{" in part or "}" in part for part in plain):
        raise ValueError(f"{value!r}: braces stand around a name, as in {{claims.email}}")
    if len(plain) == len(parts):
        known = ", ".join(_SOURCES)
        raise ValueError(
            f"{value!r} is none of {known}; a fixed text or a claim is written as in {{claims.email}}"
        )
    return ValueTemplate(value, tuple(part for part in parts if part))


def parse_text(value: Any) -> ValueTemplate:
    """Parse a template in which a text without placeholders is literal. Raises ValueError."""
    if isinstance(value, str) and value and "{" not in value and "}" not in value and is_plain(value):
        return ValueTemplate(value, (value,))
    return parse_value(value)


def _source(template: str, name: str) -> Callable[[Identity], str]:
    if name in _SOURCES:
        return _SOURCES[name]
    prefix, _, claim = name.partition(".")
    parts = split_name(claim)
    if prefix != "claims" or "" in parts:
        known = ", ".join((*_SOURCES, "claims.NAME"))
        raise ValueError(f"{template!r}: {name!r} is unknown; known here: {known}")
    return lambda identity: _claim_text(values_at(identity.claims, parts))


def _claim_text(values: Sequence[Any]) -> str:
    texts = [_scalar(value) for value in values]
    if isinstance(values, list):
        # Even for one item: the one group `a,admin` must not pass for two.
        return listed((text for text in texts if text), ",")
    return plain(texts[0]) if texts else ""


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""
