"""Names of fields as upstreams read them: `role[]`, `role[0]`, `+role`, `role%00`, `ROLE` may all be `role`.

PHP drops leading blanks, stops at a NUL and turns dots into `_`; PHP, Rack and Node's qs take brackets for
lists and members; ASP.NET and Go's encoding/json compare names without case. `tests/attacks/upstreams.json`
records which server reads what. Names are compared by their letters and digits alone.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

MAX_FIELDS: Final = 1_000
"""The most fields of a query or form: more than any page has."""

MAX_REMEMBERED: Final = 1_024
"""Names whose folded form and meanings are remembered; all requests of an API share some hundred."""

SHORT_NAME: Final = 16
"""Characters of most names that policies ask for; longer ones are folded only where one asks for them."""

MAX_MEMBERS: Final = 64
"""Names within one name that are read: PHP reads 64, Rack 32, qs 5."""

_MEMBER: Final = re.compile(r"[^\[\].]+")
BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
"""A further form of escape, which ASP.NET reads."""

Value = TypeVar("Value")
Pair = tuple[str, str | None]
"""A name and its value; None if the value cannot be known."""


MAX_REMEMBERED_CHARACTERS: Final = 128
"""A longer name is read each time: clients choose names, and these would fill memory."""


def fold_name(name: str) -> str:
    """The letters and digits of the name, without case; a name that has none of these stays as it is."""
    return _remembered_fold(name) if len(name) <= MAX_REMEMBERED_CHARACTERS else _letters_and_digits(name)


def _letters_and_digits(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


_remembered_fold = lru_cache(maxsize=MAX_REMEMBERED)(_letters_and_digits)


def members(name: str) -> list[str]:
    """The names within a name: `user[role][0]` and `user.role` have `user` and `role`.

    Places in lists are left out, and so is the text after a NUL.
    """
    return list(_members(name)) or [name]


def _members(name: str) -> Iterator[str]:
    for part in islice(_MEMBER.finditer(name.partition("\0")[0]), MAX_MEMBERS):
        if not part[0].isdecimal():
            yield part[0]


def meanings(name: str, longest: int) -> tuple[str, ...]:
    """The folded names that an upstream may read `name` as: those it is within, and last the whole.

    `user[role]` is within `user`, and is `userrole`. Those of more than `longest` characters are left out.
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
        # Else a name of many members would take time and memory that grow with its square.
        if len(folded) > longest:
            break
        found.append(folded)
    return tuple(found) if folded else (fold_name(name),)


_remembered = lru_cache(maxsize=MAX_REMEMBERED)(_meanings)


def fold_members(name: str) -> str:
    """The folded name of all that is within the name, as `meanings` has it: `userrole` for `user[role]`."""
    return "".join(map(fold_name, members(name)))


class Meanings(Generic[Value]):
    """The values of fields, found by each name that an upstream may read them under.

    Made once for a request, however many rules ask: a client chooses how many fields there are.
    """

    __slots__ = ("_fields", "_found", "_longest")

    def __init__(self, fields: Iterable[tuple[str, Value]]) -> None:
        self._fields = fields if isinstance(fields, Sequence) else tuple(fields)
        self._found: dict[str, list[Value]] = {}
        self._longest = 0

    def under(self, folded: str) -> Sequence[Value]:
        """The values that may be read under a name, given in its folded form (`fold_members`)."""
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
    """Finds the names that may mean one of a few."""

    __slots__ = ("_longest", "by_folded")

    def __init__(self, names: Iterable[str]) -> None:
        self.by_folded: dict[str, tuple[str, ...]] = {}
        """The few, by their folded form."""
        for name in names:
            folded = fold_members(name)
            self.by_folded[folded] = (*self.by_folded.get(folded, ()), name)
        self._longest = max(map(len, self.by_folded), default=0)

    def mean(self, name: str) -> bool:
        """Whether an upstream may read the name as one of the few."""
        return not self.by_folded.keys().isdisjoint(meanings(name, self._longest))

    def meant_by(self, name: str) -> Iterator[str]:
        """Those of the few that an upstream may read the name as, or as something within."""
        for folded in meanings(name, self._longest):
            yield from self.by_folded.get(folded, ())


def pairs_of(text: str, *, masked: bool = False) -> list[Pair]:
    """The names and values of a query or form, decoded: separated by `&`, and by `;`, too (CVE-2021-23336).

    A value cannot be known if upstreams differ about it: if it has a broken escape, is not UTF-8 or holds a
    NUL, or, with `masked`, if a `!` may be what Envoy shows for other bytes.
    """
    found = []
    for piece in text.split("&"):
        for part in (piece, *piece.split(";")) if ";" in piece else (piece,):
            name, _, value = part.partition("=")
            found.append((_name(name), _value(value, masked=masked)))
    return found


def spellings_in(query: str, wanted: WantedNames) -> set[str]:
    """The names in `query`, as they are spelled there, of the parameters that may mean one `wanted`.

    A parameter that hides one after a `;` counts as a whole: that is how Envoy names it.
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
