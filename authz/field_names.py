"""Names of fields as upstreams read them: `role[]`, `role[0]`, `+role`, `role%00`, `ROLE` may all be `role`.

PHP drops leading blanks, stops at a NUL and makes `_` of dots; PHP, Rack and Node's qs take brackets for
lists and members; ASP.NET and Go's encoding/json compare names without case. `tests/attacks/upstreams.json`
records which server reads what. Names are compared with all but letters and digits left out.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_FIELDS: Final = 1_000
"""Of a query or form: more than any page has."""

MAX_REMEMBERED: Final = 4_096
"""Names whose folded form is remembered; all requests of an API share some hundred."""

_MEMBER: Final = re.compile(r"[^\[\].]+")
BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
"""A form of escape that ASP.NET reads, too."""

Pair = tuple[str, str | None]
"""A name and its value; None where the value cannot be known."""


MAX_REMEMBERED_CHARACTERS: Final = 128
"""A longer name is folded each time: clients choose names, and these would fill memory."""


def fold_name(name: str) -> str:
    """The letters and digits of the name, without case; a name that has none of these stays as it is."""
    return _remembered(name) if len(name) <= MAX_REMEMBERED_CHARACTERS else _letters_and_digits(name)


def _letters_and_digits(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


_remembered = lru_cache(maxsize=MAX_REMEMBERED)(_letters_and_digits)


def members(name: str) -> list[str]:
    """The names within a name: `user[role][0]` and `user.role` have `user` and `role`.

    Places in lists are left out, and what follows a NUL.
    """
    found = [one for one in _MEMBER.findall(name.partition("\0")[0]) if not one.isdecimal()]
    return found or [name]


class WantedNames:
    """Finds the names that may mean one of a few."""

    __slots__ = ("_by_folded", "_longest")

    def __init__(self, names: Iterable[str]) -> None:
        self._by_folded: dict[str, tuple[str, ...]] = {}
        for name in names:
            folded = _folded(members(name))
            self._by_folded[folded] = (*self._by_folded.get(folded, ()), name)
        self._longest = max(map(len, self._by_folded), default=0)

    def mean(self, name: str) -> bool:
        """Whether an upstream may read the name as one of the few."""
        return any(True for _ in self.meant_by(name))

    def meant_by(self, name: str) -> Iterator[str]:
        """Those of the few that an upstream may read the name as, or as something within."""
        if name.isalnum():
            yield from self._by_folded.get(fold_name(name), ())
            return
        folded = ""
        for member in members(name):
            folded += fold_name(member)
            # Else a name of many members would take time that grows with its square.
            if len(folded) > self._longest:
                return
            yield from self._by_folded.get(folded, ())


def _folded(parts: Iterable[str]) -> str:
    return "".join(map(fold_name, parts))


def pairs_of(text: str, *, masked: bool = False) -> list[Pair]:
    """The names and values of a query or form, decoded: separated by `&`, and by `;`, too (CVE-2021-23336).

    A value cannot be known where upstreams differ about it: where an escape is none, where it is not UTF-8 or
    holds a NUL, or, with `masked`, where a `!` may be what Envoy shows for other bytes.
    """
    found = []
    for piece in text.split("&"):
        for part in (piece, *piece.split(";")) if ";" in piece else (piece,):
            name, _, value = part.partition("=")
            found.append((_name(name), _value(value, masked=masked)))
    return found


def spellings_in(query: str, wanted: WantedNames) -> set[str]:
    """The names in `query`, as they are spelled there, of the parameters that may mean one `wanted`.

    A parameter that hides one behind a `;` counts as a whole: that is how Envoy names it.
    """
    return {
        piece.partition("=")[0]
        for piece in query.split("&")
        if any(wanted.mean(_name(part.partition("=")[0])) for part in piece.split(";"))
    }


def _name(text: str) -> str:
    if "%" in text:
        text = _WIDE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
        text = unquote_to_bytes(text.encode(errors="replace")).decode(errors="replace")
    return text.replace("+", " ")


def _value(text: str, *, masked: bool) -> str | None:
    if masked and "!" in text:
        return None
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    if BAD_ESCAPE.search(text):
        return None
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in decoded else decoded
