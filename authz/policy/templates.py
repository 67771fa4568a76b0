"""Values for headers, query parameters and metadata, made of what is known of the caller."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.body import values_at
from authz.identity import Identity
from authz.policy.words import split_name

MAX_VALUE_BYTES: Final = 4_096
"""A longer value is left out: upstreams refuse requests for it (oauth2-proxy#1902)."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def clean(value: str) -> str:
    """`value` without control characters: CR, LF and NUL would end a header (CVE-2023-27493).

    Half surrogates, which a JSON claim may hold, go too: they have no UTF-8.
    """
    return _UNSAFE.sub("", value)


def listed(values: Iterable[str], separator: str) -> str:
    """The values, separated. One that holds the separator could pass for two, so it is left out."""
    return separator.join(sorted(clean(value) for value in values if separator not in value))


_SOURCES: Final[dict[str, Callable[[Identity], str]]] = {
    "subject": lambda identity: clean(identity.subject),
    "issuer": lambda identity: clean(identity.issuer),
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
        """The value for this caller; empty, so left out, where any of its places is, or it is too long."""
        values = []
        for part in self.parts:
            value = part if isinstance(part, str) else part(identity)
            if not value:
                return ""
            values.append(value)
        value = "".join(values)
        return value if len(value.encode()) <= MAX_VALUE_BYTES else ""

    def __str__(self) -> str:
        return self.text


def parse_value(value: Any) -> ValueTemplate:
    """A template from its text; a word such as `subject` alone is `{subject}`. Raises ValueError."""
    if not isinstance(value, str) or not value or len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"{value!r}: expected text, as in subject or '{{claims.email}}'")
    if clean(value) != value:
        raise ValueError(f"{value!r}: a value holds no control characters")
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
    if isinstance(value, str) and value and "{" not in value and "}" not in value and clean(value) == value:
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
    return clean(texts[0]) if texts else ""


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""
