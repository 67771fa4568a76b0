"""Header names as servers that follow CGI read them: `x.auth-roles` and `X_Auth_Roles` are one variable.

CGI makes a variable of each header (RFC 3875 section 4.1.18). nginx, WSGI and Rack turn `-` into `_`; PHP
does the same with `.`, and lighttpd with every byte that is neither letter nor digit. To these servers
every spelling of a header says the same (CVE-2025-64484, GHSA-rf44-j88r-hh8c).
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

MAX_REMEMBERED: Final = 1_024
"""Names remembered as unlike: clients of one Envoy send some hundred, and junk beyond that starts over."""

MAX_NAME_CHARACTERS: Final = 128
"""The longest name that is remembered; longer ones would fill memory and are read each time."""

_FOLDED: Final = {code: chr(code) if chr(code).isalnum() else "_" for code in range(128)}
_NOTHING: Final[Sequence[str]] = ()


def fold(name: str) -> str:
    """The name in lower case, with `_` in place of each ASCII character that is neither letter nor digit.

    No server leaves characters out of the name of a header, so `xrole` is not `x-role`, as it would be to
    `field_names.fold_name`, which is for parameters and fields.
    """
    return name.lower().translate(_FOLDED)


class NamesAlike:
    """Finds the names that read like one of a few; costs one set comparison if there are none."""

    __slots__ = ("_folded", "_unlike", "_wanted")

    def __init__(self, names: Iterable[str]) -> None:
        self._wanted = frozenset(names)
        self._folded = frozenset(map(fold, self._wanted))
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


@lru_cache(maxsize=MAX_REMEMBERED)
def names_alike(names: tuple[str, ...]) -> NamesAlike:
    """What finds these names, one for all rules that ask for them: each remembers what clients send."""
    return NamesAlike(names)
