"""Header names as servers that follow CGI read them: `x.auth-roles` and `X_Auth_Roles` are one variable.

CGI makes a variable of each header (RFC 3875 section 4.1.18). nginx, WSGI and Rack turn `-` into `_`; PHP
does the same with `.`, and lighttpd with every byte that is neither letter nor digit. To these servers
every spelling of a header says the same (CVE-2025-64484, GHSA-rf44-j88r-hh8c).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

MAX_REMEMBERED: Final = 4_096
"""Names remembered as unlike. Clients of one Envoy send some hundred; junk beyond that starts over."""

MAX_NAME_CHARACTERS: Final = 128
"""The longest name that is remembered; longer ones would fill memory and are read each time."""

_FOLDED: Final = {code: chr(code) if chr(code).isalnum() else "_" for code in range(128)}
_NOTHING: Final[Sequence[str]] = ()


def fold(name: str) -> str:
    """The name in lower case, with `_` for each ASCII character that is neither letter nor digit."""
    return name.lower().translate(_FOLDED)


class NamesAlike:
    """Finds the names that read like one of a few; costs one set comparison if there are none."""

    __slots__ = ("_folded", "_unlike", "_wanted")

    def __init__(self, names: Iterable[str], passed_over: Iterable[str] = ()) -> None:
        """`passed_over`: spellings that are never reported, besides `names` themselves."""
        wanted = tuple(names)
        self._folded = frozenset(map(fold, wanted))
        self._wanted = frozenset((*wanted, *passed_over))
        self._unlike = set(self._wanted)

    def among(self, names: Collection[str]) -> Sequence[str]:
        """Those of `names` (in lower case) that are another spelling of one of the few, sorted."""
        if self._unlike.issuperset(names):
            return _NOTHING
        found = []
        for name in names:
            if name in self._unlike:
                continue
            if fold(name) in self._folded:
                found.append(name)
            elif len(name) <= MAX_NAME_CHARACTERS:
                self._remember(name)
        return sorted(found) if found else _NOTHING

    def _remember(self, name: str) -> None:
        if len(self._unlike) >= MAX_REMEMBERED + len(self._wanted):
            self._unlike = set(self._wanted)
        self._unlike.add(name)
