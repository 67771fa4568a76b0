"""Field names as upstreams read them: `role[]`, `role[0]`, `+role`, `role%00` and `ROLE` may all be `role`.

PHP drops leading blanks, stops at a NUL and turns dots into `_`. PHP, Rack and Node's qs use brackets for
lists and members. ASP.NET and Go's encoding/json compare names without case. `tests/attacks/upstreams.json`
records which server reads what. Names are compared by their letters and digits only.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

MAX_FIELDS: Final = 1_000
"""The most fields that are read from a query or form: more than any page sends."""

MAX_REMEMBERED: Final = 1_024
"""The most names whose folded form and meanings are cached; an API has a few hundred."""

SHORT_NAME: Final = 16
"""The length of most names in policies; longer meanings are computed only if a policy uses such a name."""

MAX_MEMBERS: Final = 64
"""The most member names that are read within one name: PHP reads 64, Rack 32, qs 5."""

_MEMBER: Final = re.compile(r"[^\[\].]+")
BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
"""A non-standard escape that ASP.NET decodes."""

Value = TypeVar("Value")
Pair = tuple[str, str | None]
"""A name and its value; the value is None if it is unknown."""


MAX_REMEMBERED_CHARACTERS: Final = 128
"""Longer names are not cached: clients choose names, and long ones would fill memory."""


def fold_name(name: str) -> str:
    """Return the letters and digits of the name in folded case; a name without any stays unchanged."""
    return _remembered_fold(name) if len(name) <= MAX_REMEMBERED_CHARACTERS else _letters_and_digits(name)


def _letters_and_digits(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


_remembered_fold = lru_cache(maxsize=MAX_REMEMBERED)(_letters_and_digits)


def members(name: str) -> list[str]:
    """Return the names within a name: `user[role][0]` and `user.role` have `user` and `role`.

    Indices of lists and text after a NUL are ignored.
    """
    return list(_members(name)) or [name]


def _members(name: str) -> Iterator[str]:
    for part in islice(_MEMBER.finditer(name.partition("\0")[0]), MAX_MEMBERS):
        if not part[0].isdecimal():
            yield part[0]


def meanings(name: str, longest: int) -> tuple[str, ...]:
    """Return the folded names that an upstream may read `name` as: its prefixes of members and the whole.

    `user[role]` gives `user` and `userrole`. Names of more than `longest` characters are omitted.
    """
    short = len(name) <= MAX_REMEMBERED_CHARACTERS
    return _remembered(name, longest) if short else _meanings(name, longest)


def _meanings(name: str, longest: int) -> tuple[str, ...]:
    if name.isalnum():
        return (fold_name(name),)
    found = []
    folded = ""
    for member in _members(name):
        folded += fold_name(member)
        # Without this bound, a name with many members would take quadratic time and memory.
        if len(folded) > longest:
            break
        found.append(folded)
    return tuple(found) if folded else (fold_name(name),)


_remembered = lru_cache(maxsize=MAX_REMEMBERED)(_meanings)


def fold_members(name: str) -> str:
    """Return the folded names of all members, joined as in `meanings`: `userrole` for `user[role]`."""
    return "".join(map(fold_name, members(name)))


class Meanings(Generic[Value]):
    """Looks up fields by every name that an upstream may read them under.

    It is built once per request and shared by all rules, because a client chooses the number of fields.
    """

    __slots__ = ("_fields", "_found", "_longest")

    def __init__(self, fields: Iterable[tuple[str, Value]]) -> None:
        self._fields = fields if isinstance(fields, Sequence) else tuple(fields)
        self._found: dict[str, list[Value]] = {}
        self._longest = 0

    def under(self, folded: str) -> Sequence[Value]:
        """Return the values that may be read under a folded name (`fold_members`)."""
        if len(folded) > self._longest:
            self._longest = max(SHORT_NAME, 1 << len(folded).bit_length())
            self._found = self._by_meaning()
        return self._found.get(folded, ())

    def _by_meaning(self) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for name, value in self._fields:
            for folded in meanings(name, self._longest):
                found.setdefault(folded, []).append(value)
        return found


class WantedNames:
    """Tests whether an upstream may read a name as one of a fixed set of names."""

    __slots__ = ("_longest", "by_folded")

    def __init__(self, names: Iterable[str]) -> None:
        self.by_folded: dict[str, tuple[str, ...]] = {}
        """The names of the set by their folded form."""
        for name in names:
            folded = fold_members(name)
            self.by_folded[folded] = (*self.by_folded.get(folded, ()), name)
        self._longest = max(map(len, self.by_folded), default=0)

    def mean(self, name: str) -> bool:
        """Whether an upstream may read the name as one of the set."""
        return not self.by_folded.keys().isdisjoint(meanings(name, self._longest))


def pairs_of(text: str, *, masked: bool = False) -> list[Pair]:
    """Decode the names and values of a query or form, separated by `&` and also by `;` (CVE-2021-23336).

    A value is unknown (None) if upstreams may decode it differently: if it has an invalid escape, is not
    UTF-8 or contains a NUL. With `masked`, so is a value with a `!`, which Envoy may have put instead of
    other bytes.
    """
    found = []
    for piece in text.split("&"):
        for part in (piece, *piece.split(";")) if ";" in piece else (piece,):
            name, _, value = part.partition("=")
            found.append((_name(name), _value(value, masked=masked)))
    return found


def spellings_in(query: str, wanted: WantedNames) -> set[str]:
    """Return the names in `query`, in their original spelling, of parameters that may mean a `wanted` name.

    A parameter that hides another after a `;` is returned as a whole, because Envoy treats it as one.
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
