"""Matches names in certificates against full names and prefixes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+", re.ASCII)
"""A SPIFFE ID with a path (SPIFFE-ID section 2): no percent-encoding, no empty segment, no query."""

_UNSAFE_IN_URI: Final = re.compile(r"[%\\?#\s]")
"""Characters at which parsers of a URI differ."""


@dataclass(frozen=True, slots=True)
class Principals:
    """The full names and prefixes that match."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    uri_prefixes: tuple[str, ...]
    """The prefixes that may match a URI, as they pass its host: `s` must not match every SPIFFE ID."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "Principals":
        """Compile `names`; a `*` at the end matches any well-formed rest."""
        listed = tuple(names)
        exact = frozenset(name for name in listed if not name.endswith("*"))
        prefixes = tuple(name[:-1] for name in listed if name.endswith("*"))
        return cls(exact, prefixes, tuple(prefix for prefix in prefixes if "://" in prefix))

    def __contains__(self, name: str) -> bool:
        return name in self.exact or (self.begins(name) and not self.fault(name))

    def begins(self, name: str) -> bool:
        """Return whether the name begins with one of the prefixes."""
        return name.startswith(self.uri_prefixes if "://" in name else self.prefixes)

    def fault(self, name: str) -> str:
        """Return why a name with one of the prefixes does not match; empty if it does.

        A prefix matches names that the operator has not seen. Services may read dot segments, escapes or
        control characters in them as another name (class of CVE-2026-47778), so none of these is accepted.
        """
        if all(len(name) == len(prefix) for prefix in self.prefixes if name.startswith(prefix)):
            return "nothing follows the prefix"
        return _malformed(name)


def _malformed(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        return "it has control characters or outer blanks"
    if name.lower().startswith("spiffe:"):
        path = name.split("/")[3:]
        if not _SPIFFE.fullmatch(name) or any(segment in {".", ".."} for segment in path):
            return "it is not a SPIFFE ID with a path"
        return ""
    if "://" not in name:
        return ""
    if _UNSAFE_IN_URI.search(name):
        return "its URI has an escape, a backslash, a blank, a query or a fragment"
    path = name.partition("://")[2].split("/")
    if any(segment.partition(";")[0] in {"", ".", ".."} for segment in path):
        return "its URI has an empty or a dot segment"
    return ""
