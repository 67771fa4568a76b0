"""Values for headers, query parameters and metadata, made of what is known of the caller."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.policy.types.names import split_name
from authz.request.body import values_at
from authz.request.identity import Identity
from authz.request.plain_text import is_plain, plain

MAX_VALUE_BYTES: Final = 4_096
"""A longer value is left out: upstreams refuse requests for it (oauth2-proxy#1902)."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def listed(values: Iterable[str], separator: str) -> str:
    """The values, separated. One that holds the separator could pass for two, so it is left out.

    So is one that cannot be carried unchanged: for a reader that splits the list, ` admin` is `admin`.
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
    """A text with places for what is known of the caller: `{subject}`, `tenant-{claims.tenant}`."""

    text: str
    parts: tuple[str | Callable[[Identity], str], ...]

    def fill(self, identity: Identity) -> str:
        """The value for this caller; empty, so left out, where any of its places is, or it is too long.

        A place is empty, too, where what would stand there cannot be carried unchanged.
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
        """Whether it depends on the caller."""
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
    """As `parse_value`, for places where a fixed text is meant as it stands. Raises ValueError."""
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
        # However few there are: the one group `a,admin` is not two.
        return listed((text for text in texts if text), ",")
    return plain(texts[0]) if texts else ""


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""
